"""Real processes: the `pspf` command as a user runs it."""
