"""A module of a name that a package has too, first on the path of the host's programs."""

raise RuntimeError("only this host's programs may import its modules")
