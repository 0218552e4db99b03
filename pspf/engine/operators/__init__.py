"""Stateful operators: windows, and the shuffle before them."""
