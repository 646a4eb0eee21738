"""What an image is: immutable values, standard library only (OCI image specification 1.1)."""
