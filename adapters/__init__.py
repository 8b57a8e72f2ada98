"""Adapters for projection-based ZS-CIR methods, one plugin per method."""
