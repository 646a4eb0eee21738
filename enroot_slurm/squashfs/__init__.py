"""How an image is written, with the options of mksquashfs: the file format squashfs 4.0."""
