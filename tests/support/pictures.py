"""Takes the pictures of the docs: `python -m tests.support.pictures`, of a shop that has been at work for a minute."""

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.process.commands import ROOT, Folder
from tests.support.browser import Browser

IMAGES: Final = ROOT / "docs" / "images"
SECONDS: Final = 65
A_SECOND: Final = 60

SHOP: Final = '''
from pspf import BaseEvent, Context, RetryPolicy, Stream, TumblingWindow

stream = Stream(topic="orders", group="billing")


class Order(BaseEvent):
    order_id: int
    amount: float
    card: str = "valid"


class CardRefused(ValueError):
    """The bank says no."""


@stream.subscribe("orders", ordering="key", retry=RetryPolicy(max_attempts=2, initial_ms=50), name="shop.charge")
async def charge(order: Order, ctx: Context) -> None:
    if order.card != "valid":
        raise CardRefused(f"card {order.card!r} refused for {order.amount:.2f}")
    spent = await ctx.state.get("spent", 0.0) + order.amount
    await ctx.state.put("spent", spent)
    ctx.emit({"customer": order.key, "amount": order.amount}, topic="receipts", key=order.key)


@stream.subscribe("receipts", group="post", name="shop.send")
async def send(receipts: list[BaseEvent]) -> None:
    pass


@stream.window("orders", TumblingWindow(5_000), emit="final", to="revenue", group="stats", name="shop.revenue")
async def revenue(order: Order, state: float | None) -> float:
    return (state or 0.0) + order.amount


@stream.subscribe("revenue", group="stats", name="shop.watch")
async def watch(event: BaseEvent) -> None:
    pass
'''


def orders(count: int) -> str:
    """Return orders as lines of JSON; about one in a thousand has a stolen card."""
    chance = random.Random(7)
    lines = []
    for number in range(1, count + 1):
        order = {"order_id": number, "amount": round(chance.uniform(2, 120), 2), "key": f"customer-{number % 97}"}
        lines.append(json.dumps(order | ({"card": "stolen"} if chance.random() < 0.001 else {})))
    return "\n".join(lines)


def take(browser: Browser, address: str) -> None:
    """Take all pictures of the dashboard at `address`."""
    browser.prefer("light")
    browser.open(address)
    browser.wait_for(lambda: browser.count(".node") == 4, "the handlers")
    time.sleep(SECONDS)  # the lines of the last minute
    shoot(browser, "dashboard-light.png", 1280)
    browser.prefer("dark")
    browser.click(".letter summary")
    browser.wait_for(lambda: "Traceback" in browser.text(".letter .body"), "a whole dead letter")
    shoot(browser, "dashboard-dark.png", 1280)
    browser.run("document.querySelector('.letter details').open = false")
    browser.prefer("light")
    shoot(browser, "dashboard-phone.png", 375)


def shoot(browser: Browser, name: str, width: int) -> None:
    """Store a picture of the page, as much of it as is worth its bytes."""
    browser.resize(width, 800, is_phone=width < 600)
    time.sleep(1.5)  # the page is drawn once a second
    height = min(browser.run("document.documentElement.scrollHeight"), 1_500)
    browser.resize(width, height, is_phone=width < 600)
    browser.run("scrollTo(0, 0)")
    time.sleep(1.5)
    browser.screenshot(IMAGES / name)
    print(IMAGES / name)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Browser(Path(place) / "profile") as browser:
        shop = Path(tempfile.gettempdir()) / "shop"  # its place is in the pictures
        shutil.rmtree(shop, ignore_errors=True)
        shop.mkdir()
        folder = Folder(shop)
        (folder.path / "shop.py").write_text(SHOP)
        folder.environment |= {"PSPF_ADMIN": "127.0.0.1:0"}
        folder.ok("topics", "create", "orders", "--partitions", "4")
        (folder.path / "orders.ndjson").write_text(orders(A_SECOND * (SECONDS + 60)))
        command = [sys.executable, "-m", "pspf", "emit", "orders", "@orders.ndjson", "--rate", f"{A_SECOND}/s"]
        with folder.worker("shop:stream", "--name", "web-1", "-w", "orders/billing=2") as worker:
            worker.wait_for("dashboard: ")
            emitting = subprocess.Popen(
                command, cwd=folder.path, env=folder.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                found = re.search(r"dashboard: (\S+)", worker.log.read_text())
                assert found is not None
                take(browser, found[1])
            finally:
                emitting.terminate()
                emitting.wait()


if __name__ == "__main__":
    main()
