"""The `pspf` command: arguments in, text out. Modules here import what is heavy inside functions, for start-up time."""
