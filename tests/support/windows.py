"""States of windows as tests write them, by place, and as commits have them, by slot."""

from collections.abc import Mapping

from pspf.records import WindowPlace, WindowStates


def by_slot(states: Mapping[WindowPlace, bytes | None]) -> WindowStates:
    """Return states as a commit has them."""
    found: dict[int, dict[bytes, bytes | None]] = {}
    for (slot, key), state in states.items():
        found.setdefault(slot, {})[key] = state
    return found


def by_place(states: WindowStates) -> dict[WindowPlace, bytes | None]:
    """Return the states of a commit by slot and key."""
    return {(slot, key): state for slot, keys in states.items() for key, state in keys.items()}
