"""The handlers: charging with retries, and a log of receipts."""

from apps.orders.bank import CardRefused, charge
from apps.orders.models import Order, Receipt
from pspf import Context, RetryPolicy, Stream

stream = Stream(topic="orders", group="billing")

# A closed bank opens again: three attempts, 0.2 s and 0.4 s apart. A refused card stays refused.
PATIENCE = RetryPolicy(max_attempts=3, initial_ms=200, max_ms=2_000, jitter=0.2, give_up_on=(CardRefused,))


@stream.subscribe("orders", ordering="key", retry=PATIENCE, name="orders.bill")
async def bill(order: Order, ctx: Context) -> None:
    """Charge an order; the orders of a customer wait for each other, other customers don't."""
    charge(order.card, order.amount)
    total = round(await ctx.state.get("total", 0.0) + order.amount, 2)
    await ctx.state.put("total", total)
    ctx.emit(Receipt(order_id=order.order_id, amount=order.amount, total=total), topic="receipts", key=order.key)


@stream.subscribe("receipts", group="post", name="orders.send")
def send(receipts: list[Receipt]) -> None:
    """Send receipts, a batch at a time: a plain function, which runs in a thread."""
    for receipt in receipts:
        print(f"receipt for order {receipt.order_id}: {receipt.amount:.2f}, in total {receipt.total:.2f}")
