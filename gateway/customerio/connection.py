"""One Customer.io workspace: where its requests go, with which credentials, and how they are retried."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.customerio.calls import WorkspaceIdentifiers
from gateway.customerio.retry import Policy

#: The regions, and the host of each.
HOSTS = {"us": "https://track.customer.io", "eu": "https://track-eu.customer.io"}
DEFAULT = "default"
#: Requests a second. Customer.io takes 1,000 of a workspace, from all its senders together.
DEFAULT_RATE, MAX_RATE = 100, 1_000


@dataclass(frozen=True, kw_only=True)
class Connection:
    """One Customer.io workspace.

    Attributes:
        region: One of HOSTS.
        base_url: Replaces the region's host, as ``https://host``.
        rate: Requests a second of one process, at most; a batch is one request.
        identifiers: By which the workspace knows people, and so how it reads what looks like an email in a path of
            v1. None: not known, so such an id is never part of a batch.
    """

    name: str = DEFAULT
    site_id: str
    api_key: str = field(repr=False)
    region: str = "us"
    base_url: str | None = None
    policy: Policy = field(default_factory=Policy)
    rate: float = DEFAULT_RATE
    identifiers: WorkspaceIdentifiers | None = None

    def host(self, region: str | None = None) -> str:
        """Return the scheme and host to send to; *region* wins over the connection's own."""
        return self.base_url.rstrip("/") if self.base_url else HOSTS[region or self.region]


def variable_prefix(name: str) -> str:
    """Return how the names of a connection's environment variables begin."""
    return "CUSTOMERIO_" if name == DEFAULT else f"CUSTOMERIO_{name.upper().replace('-', '_')}_"
