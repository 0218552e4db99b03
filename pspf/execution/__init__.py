"""The ways to run a batch's handlers: one after the other, side by side, in threads, as a whole."""
