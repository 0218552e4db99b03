"""Engines of the embedded broker: where its transactions run."""
