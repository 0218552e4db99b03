"""An order desk: models, retries, a dead letter and its replay.

pspf emit orders '{"order_id": 7, "amount": 12.5}' -k ada
pspf worker apps.orders:stream --burst
"""

from apps.orders.handlers import stream

__all__ = ["stream"]
