"""The tests of PSPF."""
