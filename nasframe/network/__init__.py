"""Networks: the modules that a structure describes."""
