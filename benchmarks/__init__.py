"""PSPF measured beside hand-written loops. Figures are printed, never asserted: machines differ."""
