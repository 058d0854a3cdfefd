"""Structures, the frozen descriptions of networks: their classes, addresses and edits."""
