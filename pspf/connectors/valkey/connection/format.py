"""The format of what is stored on a server: its version, and the key that it is kept under."""

from typing import Final

FORMAT: Final = 4
"""Written into each database; one of a newer format is refused, one of an older is brought up to date."""

FORMAT_KEY: Final = b"pspf:format"
