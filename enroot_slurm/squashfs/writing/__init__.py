"""Writing a new squashfs image."""
