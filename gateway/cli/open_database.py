"""An open database for the commands that need one. Importing this takes most of a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.config import Config
from gateway.store.database import Database, connect


@contextmanager
def open_database(config: Config) -> Iterator[Database]:
    """Yield the database of the environment, and close it."""
    database = connect(config.database_url)
    try:
        yield database
    finally:
        database.engine.dispose()
