"""Keeping a cache small and sound, and filled in advance."""
