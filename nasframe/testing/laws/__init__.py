"""The laws of the contract, a module for each kind of part; part.py has those of every kind.

A module gives `cases(subject)`, a strategy of what its laws are tried on, and `exercise(case)`, which does once all that the
interface asks of a part, and tells what came of it.
"""
