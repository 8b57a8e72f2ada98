"""Adapters of three methods, each with a need of its own; see the tests beside this package."""
