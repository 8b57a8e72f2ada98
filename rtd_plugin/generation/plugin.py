"""Empty: only entry points of earlier installations name this module."""
