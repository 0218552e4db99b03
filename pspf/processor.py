"""`BatchProcessor`, under the name that users import."""

from pspf.engine.processor import BatchProcessor

__all__ = ["BatchProcessor"]
