"""A change of structure: a child is built from its structure and then filled from its parent by a map."""
