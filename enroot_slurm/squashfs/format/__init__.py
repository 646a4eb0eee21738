"""The squashfs format: its tables, as bytes and as values."""
