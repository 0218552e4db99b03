"""The parts of the loop that `pspf/processor.py` turns: its numbers, its reads, and how it is wired."""
