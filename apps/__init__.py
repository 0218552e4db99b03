"""Examples that run: each uses the public API only."""
