"""What an image becomes: layers are decompressed, verified, merged and written as one tar stream, never unpacked."""
