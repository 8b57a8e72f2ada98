"""Adapters for projection-based ZS-CIR methods, one module a method, each a plugin like anybody's."""
