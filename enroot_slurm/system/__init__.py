"""The operating system: files, processes, signals, users."""
