"""How an image is written: mksquashfs, and the file format it produces (squashfs 4.0)."""
