"""Status of worker processes: what they report, and how they ended."""
