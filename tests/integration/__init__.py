"""Streams and their handlers, run on real brokers; and the example apps."""
