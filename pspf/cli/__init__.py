"""Command line of PSPF: parses arguments, prints text. Heavy modules are imported in functions, for start-up time."""
