"""The commands: a module for each group of them, loaded when the command line is read."""
