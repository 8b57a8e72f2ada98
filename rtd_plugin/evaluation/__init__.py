"""Benchmarks, metrics and retrieval: what a text encoder is worth."""
