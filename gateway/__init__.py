"""A gateway that turns webhooks into Customer.io calls: each one arrives, once, in order."""

__version__ = "0.1.0"
