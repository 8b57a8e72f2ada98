"""Adapters of three methods with special needs; see the tests beside this package."""
