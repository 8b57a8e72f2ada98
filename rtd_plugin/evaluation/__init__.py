"""Evaluates text encoders: benchmarks, metrics and retrieval."""
