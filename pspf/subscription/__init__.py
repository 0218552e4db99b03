"""A registered handler: its function, its retries, its shuffle, its policies."""

from pspf.subscription.handler import Handler, Takes, inspect_fold, inspect_handler
from pspf.subscription.retrying import RetryPolicy, read_default_retry
from pspf.subscription.shuffle import Shuffle, repartition_topic
from pspf.subscription.subscription import Ordering, Subscription

__all__ = [
    "Handler",
    "Ordering",
    "RetryPolicy",
    "Shuffle",
    "Subscription",
    "Takes",
    "inspect_fold",
    "inspect_handler",
    "read_default_retry",
    "repartition_topic",
]
