"""The settings: where they are written, and what they mean."""
