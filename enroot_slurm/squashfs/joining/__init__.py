"""Joining images of layers to one image."""
