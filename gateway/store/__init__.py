"""The only SQL: events, deliveries and connection states, on SQLite or PostgreSQL.

`Store` is the face of the hot path: record, claim, settle.
"""

from gateway.store.claiming import Claimed, ClaimRequest
from gateway.store.recording import NewEvent, Recorded
from gateway.store.settling import Outcome
from gateway.store.transactions import Store, Turn

__all__ = ["ClaimRequest", "Claimed", "NewEvent", "Outcome", "Recorded", "Store", "Turn"]
