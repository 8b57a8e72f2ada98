"""What Python and the command line both call: train, evaluate, search, generate, export, patch."""
