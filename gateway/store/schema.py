"""The version of the database's schema: migrate to the newest one, or require it."""

from __future__ import annotations

from functools import cache
from importlib import resources

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway.errors import StoreError
from gateway.store.database import OTHER_SCHEMA, Database, reading, writing


def migrate(database: Database) -> None:
    """Bring the database's schema to the newest version. Several processes may try at once.

    Raises:
        StoreError: The database cannot be used.
    """
    with writing(database) as connection:
        database.lock_schema(connection)
        config = _alembic()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


def require_schema(database: Database) -> str:
    """Return the version of the database's schema, which is the newest.

    Raises:
        StoreError: It is not the newest, or the database cannot be used.
    """
    with reading(database) as connection:
        version = MigrationContext.configure(connection).get_current_revision()
    if version is None or version != _newest_version():
        raise StoreError(OTHER_SCHEMA)
    return version


def require_ready(database: Database) -> None:
    """Require that webhooks can be recorded: the database answers in time, has this schema, and can be written.

    Raises:
        StoreError: It is not so.
    """
    database.require_space()
    with writing(database) as connection:
        database.require_writable(connection)
        version = MigrationContext.configure(connection).get_current_revision()
    if version != _newest_version():
        raise StoreError(OTHER_SCHEMA)


@cache
def _newest_version() -> str | None:
    return ScriptDirectory.from_config(_alembic()).get_current_head()


def _alembic() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(resources.files("gateway.store") / "migrations"))
    return config
