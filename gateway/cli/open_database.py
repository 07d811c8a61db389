"""An open database for the commands that need one. Importing this takes most of a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.config import Config
from gateway.store.database import Database, connect
from gateway.store.postgresql import AnswerLimits


@contextmanager
def open_database(config: Config, *, limits: AnswerLimits | None = None) -> Iterator[Database]:
    """Yield the database of the environment, and close it; *limits* as in `connect`."""
    database = connect(config.database_url, limits=limits)
    try:
        yield database
    finally:
        database.engine.dispose()
