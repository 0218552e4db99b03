"""Handler runners: how the records of a batch reach a user's function."""
