"""Loading of the app, options that change it, and its plan as values."""
