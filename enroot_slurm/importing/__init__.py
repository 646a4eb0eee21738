"""The program: from a reference to an image in a file or a cache."""
