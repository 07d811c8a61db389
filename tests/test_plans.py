"""How the databases go about the hot queries: by index, however large the tables are."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import event as notices
from sqlalchemy import text

from gateway.database import Database
from gateway.retry import Attempt, Decision, Delivered, Failed, Retry
from gateway.store import Outcome, Store
from tests.test_store import call, event

WHOLE_TABLE = re.compile(r"\b(SCAN|Seq Scan on) (events|deliveries|attempts|earlier)\b")


def fill(store: Store, number: int) -> None:
    for group in range(number):
        made = [call(f"{group}-{each}", each % 200) for each in range(20)]
        store.record([event(f"{group}", *made)])


def work(store: Store) -> None:
    """Do all that receiver and worker do: new and repeated events, every kind of outcome, a merge, a release."""
    merge = call("merge", 1, 2)
    store.record([event("new", call("new", 1), merge, call("other", 7)), event("1")])
    attempt = Attempt(status=200)
    claimed = store.settle_and_claim([], limit=8, lease=1, seconds=60).claimed
    decisions: list[Decision] = [
        Retry(after=1.0, reason="x"),
        Failed(reason="x"),
        *(Delivered() for _ in claimed[2:]),
    ]
    outcomes = [
        Outcome(delivery=each, attempt=attempt, decision=decision)
        for each, decision in zip(claimed, decisions, strict=True)
    ]
    store.release(store.settle_and_claim(outcomes, limit=3, lease=2, seconds=60).claimed)
    store.settle_and_claim([], limit=1000, lease=3, seconds=60)


def test_no_hot_query_reads_a_whole_table(database: Database, store: Store) -> None:
    fill(store, 200)
    with database.transaction() as connection:
        connection.execute(text("ANALYZE"))
    statements: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, given: Any, _context: Any, many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|DELETE)", statement):
            statements.setdefault(statement, given[0] if many else given)

    notices.listen(database.engine, "before_cursor_execute", note)
    work(store)
    notices.remove(database.engine, "before_cursor_execute", note)
    assert len(statements) > 8

    explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
    with database.engine.connect() as connection:
        if database.engine.dialect.name == "postgresql":
            # So small a table is read whole with good reason; this asks whether an index could serve.
            connection.exec_driver_sql("SET enable_seqscan = off")
        for statement, given in statements.items():
            plan = "\n".join(str(row[-1]) for row in connection.exec_driver_sql(explain + statement, given))
            assert not WHOLE_TABLE.search(plan), f"{statement}\n{plan}"
