"""A run: a search whose state, records and results are kept in a folder."""
