"""An open database, for the commands that need one: to load what it takes is most of a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.config import Config
from gateway.store.database import Database, connect


@contextmanager
def opened(config: Config) -> Iterator[Database]:
    database = connect(config.database_url)
    try:
        yield database
    finally:
        database.engine.dispose()
