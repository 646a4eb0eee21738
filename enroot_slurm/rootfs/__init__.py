"""Layers become one tree: they are decompressed, verified and merged as streams, and never unpacked."""
