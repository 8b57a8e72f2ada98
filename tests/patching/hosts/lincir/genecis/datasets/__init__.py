CARDS = 15  # of the host; the package of this name has none
