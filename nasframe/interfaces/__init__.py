"""The interfaces that plugins implement, one file each."""
