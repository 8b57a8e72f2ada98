"""A module of a name that a package has too, first on the path of the host's programs."""

raise RuntimeError("nobody outside this host is to import its modules")
