"""A bank that is not always there: a file stands for its answer, so that the example can be repaired from outside."""

from pathlib import Path

CLOSED = Path("bank.closed")


class BankClosed(ConnectionError):
    """The bank does not answer; later it may."""


class CardRefused(ValueError):
    """The bank says no, and will say so again."""


def charge(card: str, amount: float) -> None:
    """Charge a card.

    Raises:
        BankClosed: The bank is closed: a file `bank.closed` lies in the working directory.
        CardRefused: The card is not valid.
    """
    if card != "valid":
        raise CardRefused(f"card {card!r} refused for {amount:.2f}")
    if CLOSED.exists():
        raise BankClosed("the bank is closed")
