"""The parts of an image as immutable values; standard library only (OCI image specification 1.1)."""
