"""Commands of `pspf`: always imported, so they import nothing heavy."""
