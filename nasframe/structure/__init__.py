"""Structures: frozen descriptions of networks, their addresses and their edits."""
