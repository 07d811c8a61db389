"""All that the gateway knows of Customer.io: its calls, limits, requests and answers, and a client that sends them.

    from gateway.customerio import Client, Connection

    with Client(Connection(site_id="…", api_key="…", region="eu")) as client:
        client.identify(id="42", attributes={"plan": "pro"})
        client.track(id="42", name="Order Paid", attributes={"total": 49.5}, event_id="order-7")

The client works without the rest of the gateway (docs/client.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.customerio.client import Client, Sender
    from gateway.customerio.connection import Connection
    from gateway.customerio.dry_run import DryRun
    from gateway.customerio.response import Response
    from gateway.customerio.retry import Policy

__all__ = ["Client", "Connection", "DryRun", "Policy", "Response", "Sender"]

_HOMES = {
    "Client": "client",
    "DryRun": "dry_run",
    "Sender": "client",
    "Connection": "connection",
    "Response": "response",
    "Policy": "retry",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `gateway check` needs the calls, and not requests."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
