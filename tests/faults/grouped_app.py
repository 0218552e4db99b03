"""The app of the faults of grouped handlers: running sums by another key than the records' own."""

import os

from pspf import BaseEvent, Context, Stream

BATCH_SIZE = int(os.environ.get("FAULTS_BATCH_SIZE", "9"))
stream = Stream(topic="orders", group="sums")


class Order(BaseEvent):
    """An event that is told apart by its number."""

    n: int
    customer: str


@stream.subscribe("orders", BATCH_SIZE, ordering="key", key="customer", name="total")
async def total(order: Order, ctx: Context) -> None:
    """Keep a customer's sum and the numbers it is made of, and tell both."""
    numbers = [*(await ctx.state.get("numbers", [])), order.n]
    await ctx.state.put("numbers", numbers)
    ctx.emit({"customer": ctx.key, "n": order.n, "own": ctx.own_key, "count": len(numbers)}, "totals", key=ctx.key)
