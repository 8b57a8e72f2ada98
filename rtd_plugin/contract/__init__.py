"""What an author of a plugin imports: hooks, adapters, composition points, shims."""
