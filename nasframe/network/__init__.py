"""Networks, the modules that structures describe."""
