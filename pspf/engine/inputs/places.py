"""Places of the records of a handler of several topics: numbers in the order in which they are handled.

Offsets of two topics may be equal, and say nothing of which record comes first. While a record is in the loop, its
place stands in `Record.offset`: the number that the merge gave it, then its topic's index, then its own offset. What
formats an id takes the offset from it (`records.format_id`).
"""

from typing import Final

from pspf.records import OFFSET_BITS, Record

_INPUT_BITS: Final = 8
MOST_INPUTS: Final = 1 << _INPUT_BITS
_NUMBER_SHIFT: Final = OFFSET_BITS + _INPUT_BITS
_OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1


def make_place(number: int, index: int, offset: int) -> int:
    """Return the place of a record: its number, the index of its topic, its offset there."""
    return number << _NUMBER_SHIFT | index << OFFSET_BITS | offset


def first_place(number: int) -> int:
    """Return the position before the record of a number: no place of an earlier one is as high."""
    return number << _NUMBER_SHIFT


def number_of(place: int) -> int:
    """Return the number of a place, or of a position."""
    return place >> _NUMBER_SHIFT


def input_of(place: int) -> int:
    """Return the index of the topic of a place."""
    return place >> OFFSET_BITS & MOST_INPUTS - 1


def offset_in(place: int) -> int:
    """Return the offset of a place, in its own topic."""
    return place & _OFFSET_MASK


def as_stored(record: Record) -> Record:
    """Return a record as it is stored: with its offset."""
    return record._replace(offset=record.offset & _OFFSET_MASK)
