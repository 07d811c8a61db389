"""GET /healthz and /readyz: whether the process runs, and whether it can record webhooks."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app

from gateway.errors import StoreError
from gateway.store.database import OTHER_SCHEMA
from gateway.store.schema import require_ready

health = Blueprint("health", __name__)


@health.get("/healthz")
def healthz() -> dict[str, Any]:
    """Tell that the process answers."""
    return {"ok": True}


@health.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """Tell whether this process can record webhooks: the database can be written, and the last webhook was."""
    try:
        require_ready(current_app.extensions["database"])
    except StoreError as error:
        # The page is public, so it must not show how the database is reached.
        problem = OTHER_SCHEMA if str(error) == OTHER_SCHEMA else "the database does not answer"
        return {"ok": False, "error": problem}, 503
    if current_app.extensions["recorder"].is_failing():
        return {"ok": False, "error": "the database does not take writes"}, 503
    return {"ok": True}, 200
