"""The laws, one file for each kind of part; `part` has the laws of all kinds.

A file has the laws of its kind; `cases`, the strategy of the cases that they are tried on; and `exercise`, which calls
everything that the interface requires of a part once and returns the results by name, for the laws of all kinds.
"""
