"""The events of an order desk."""

from pydantic import Field

from pspf import BaseEvent


class Order(BaseEvent):
    """An order; `key` is the customer. The amount is in euros."""

    order_id: int
    amount: float = Field(gt=0)
    card: str = "valid"


class Receipt(BaseEvent):
    """What a customer gets for a charged order; `total` is all that the customer spent."""

    order_id: int
    amount: float
    total: float
