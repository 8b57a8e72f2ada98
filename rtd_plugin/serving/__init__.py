"""A service that composes queries and searches a gallery over HTTP, with a page to do so (extra `serve`)."""
