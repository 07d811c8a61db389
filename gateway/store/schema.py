"""The version of the database's schema: migrate to the newest one, or require it."""

from __future__ import annotations

from functools import cache
from importlib import resources

from sqlalchemy import Connection, text

from gateway.errors import StoreError
from gateway.store.database import OTHER_SCHEMA, Database, reading, writing

_MIGRATIONS = resources.files("gateway.store") / "migrations"
_VERSION = text("SELECT version_num FROM alembic_version")


def migrate(database: Database) -> None:
    """Bring the database's schema to the newest version. Several processes may try at once.

    Raises:
        StoreError: The database cannot be used.
    """
    # Imported here only: Alembic takes 9 MB of memory, and the web processes never migrate.
    from alembic import command
    from alembic.config import Config

    with writing(database) as connection:
        database.lock_schema(connection)
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def require_schema(database: Database) -> str:
    """Return the version of the database's schema, which is the newest.

    Raises:
        StoreError: It is not the newest, or the database cannot be used.
    """
    with reading(database) as connection:
        return _require_newest(connection)


def require_ready(database: Database) -> None:
    """Require that webhooks can be recorded: the database answers in time, has this schema, and can be written.

    Raises:
        StoreError: It is not so.
    """
    database.require_space()
    with writing(database) as connection:
        database.require_writable(connection)
        _require_newest(connection)


def _require_newest(connection: Connection) -> str:
    version: str | None = connection.scalar(_VERSION)
    if version is None or version != newest_version():
        raise StoreError(OTHER_SCHEMA)
    return version


@cache
def newest_version() -> str:
    """Return the version that the newest migration makes: the number with which its file's name begins."""
    names = (file.name for file in (_MIGRATIONS / "versions").iterdir())
    return max(name[:4] for name in names if name[:4].isdigit())
