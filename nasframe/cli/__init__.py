"""The command line: `nasframe search`, `retrain`, `resume`, `plugins`, `check` and `reproduce`."""
