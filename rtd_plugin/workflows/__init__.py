"""Functions that Python and the command line call: train, evaluate, search, generate, export, patch."""
