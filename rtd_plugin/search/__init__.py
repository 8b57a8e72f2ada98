"""Search with composed queries: one picture and a text to the best images of a gallery."""
