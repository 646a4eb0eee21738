"""Tar archives as streams, plain or compressed: those of layers, and those that hold images."""
