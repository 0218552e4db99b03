"""The app to run: loaded, changed by options, planned as values."""
