"""Images that are in no registry: archives, layouts and daemons."""
