"""GET /healthz and /readyz: whether the process runs, and whether it can record webhooks."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app

from gateway.errors import StoreError
from gateway.receive.remembered import Remembered
from gateway.store.database import OTHER_SCHEMA, Database
from gateway.store.schema import require_ready

health = Blueprint("health", __name__)


def readiness(database: Database) -> Remembered[None]:
    """Return whether webhooks can be recorded in a database, for all who ask.

    Args:
        database: Not the one that records webhooks: anybody may ask, and must not take its connections.
    """
    return Remembered(lambda: require_ready(database))


@health.get("/healthz")
def healthz() -> dict[str, Any]:
    """Tell that the process answers."""
    return {"ok": True}


@health.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """Tell whether this process can record webhooks: the database can be written, and the last webhook was."""
    try:
        current_app.extensions["readiness"].get()
    except StoreError as error:
        # The page is public, so it must not show how the database is reached.
        problem = OTHER_SCHEMA if str(error) == OTHER_SCHEMA else "the database does not answer"
        return {"ok": False, "error": problem}, 503
    if current_app.extensions["recorder"].is_failing():
        return {"ok": False, "error": "the database does not take writes"}, 503
    return {"ok": True}, 200
