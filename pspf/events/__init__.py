"""Events and their bytes: models, encoding, decoding, timestamps."""
