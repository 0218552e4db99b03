"""`BaseEvent` and the registry of event models, under the name that users import."""

from typing import ClassVar

from pspf.errors import ConfigurationError
from pspf.events.decoding import by_type, decode_base_event, make_decoder
from pspf.events.event import BaseEvent

__all__ = ["BaseEvent", "SchemaRegistry"]


class SchemaRegistry:
    """Which model a record's `event_type` is read with, where nothing else says so. Process-wide."""

    _models: ClassVar[dict[str, type]] = {}

    @classmethod
    def register(cls, event_type: str, model: type) -> None:
        """Read records of `event_type` as `model`.

        Raises:
            ConfigurationError: The type has another model already, or pydantic can't validate `model`.
        """
        if not event_type:
            raise ConfigurationError("event_type of a model is empty")
        known = cls._models.get(event_type)
        if known is not None and _place(known) != _place(model):
            raise ConfigurationError(
                f"event_type {event_type!r} is registered with {_place(known)}; unregister it before {_place(model)}"
            )
        by_type[event_type] = decode_base_event if model is BaseEvent else make_decoder(model)
        cls._models[event_type] = model

    @classmethod
    def get(cls, event_type: str) -> type | None:
        """Return the model of `event_type`, None for an unknown one."""
        return cls._models.get(event_type)

    @classmethod
    def unregister(cls, event_type: str) -> None:
        """Forget `event_type`; nothing happens where it is unknown."""
        cls._models.pop(event_type, None)
        by_type.pop(event_type, None)


def _place(model: type) -> str:
    """Return where a model is defined; the same for both copies of a module that was loaded twice."""
    return f"{getattr(model, '__module__', '')}.{getattr(model, '__qualname__', repr(model))}"
