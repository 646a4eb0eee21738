"""Where an image comes from: credentials, logging in, and the registry client (OCI distribution-spec 1.1)."""
