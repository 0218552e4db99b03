"""A worker over HTTP: health, metrics, what it is at, and what it is told. A process of its own beside the worker."""
