"""Numbers as tasks: families of functions."""
