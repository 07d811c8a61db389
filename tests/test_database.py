"""How processes share one SQLite file."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from gateway.database import connect, migrate, reading, writing


def test_a_connection_opens_while_another_process_writes(tmp_path: Path) -> None:
    # Each has locks and connections of its own, as two processes would.
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    writer, other = connect(url), connect(url)
    migrate(writer)
    with writing(writer), reading(other) as connection:
        assert connection.execute(text("PRAGMA auto_vacuum")).scalar_one() == 2  # the space can be given back
