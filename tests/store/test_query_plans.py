"""How the databases go about the hot queries: by index, however large the tables are."""

from __future__ import annotations

import itertools
import re
from typing import Any

import psycopg
import pytest
from sqlalchemy import event as notices

from gateway.customerio.retry import Attempt, Decision, Delivered, Failed, Retry
from gateway.store import ClaimRequest, NewEvent, Outcome, Store
from gateway.store.database import Database
from gateway.store.statements import driver_cursor
from tests.store.test_record_and_claim import call, event


def fill(store: Store, number: int, *, with_merges: bool) -> None:
    """Record calls behind each other and merges, or calls of which each is the first of its lane."""
    for first in range(0, number, 20):
        store.record([filling(each, with_merges=with_merges) for each in range(first, first + 20)])


def filling(group: int, *, with_merges: bool) -> NewEvent:
    made = [call(f"{group}-{each}", each if with_merges else 20 * group + each) for each in range(20)]
    merges = [
        call(f"{group}-merge-{each}", 1_000 * group + each, 2_000 * group + each)
        for each in range(20 if with_merges else 0)
    ]
    return event(f"{group}", *made, *merges)


def work(store: Store) -> None:
    """Do all that receiver and worker do: new and repeated events, every kind of outcome, a merge, a release."""
    merge = call("merge", 1, 2)
    many = [call(f"one of many {lane}", lane) for lane in range(-200, 0)]
    store.record([event("new", call("new", 1), merge, call("other", 7), *many), event("1")])
    attempt = Attempt(status=200)
    claimed = store.settle_and_claim([], ClaimRequest(limit=8, lease=1, lease_seconds=60)).claimed
    decisions: list[Decision] = [
        Retry(after=1.0, reason="x"),
        Failed(reason="x"),
        *(Delivered() for _ in claimed[2:]),
    ]
    outcomes = [
        Outcome(delivery=each, attempt=attempt, decision=decision)
        for each, decision in zip(claimed, decisions, strict=True)
    ]
    store.release(store.settle_and_claim(outcomes, ClaimRequest(limit=3, lease=2, lease_seconds=60)).claimed)
    store.settle_and_claim([], ClaimRequest(limit=1000, lease=3, lease_seconds=60))


@pytest.fixture
def statements(database: Database) -> dict[str, Any]:
    """The statements that reach the database from now on, each with values that it was given, as drivers see them."""
    seen: dict[str, Any] = {}

    class Noting(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Noting:
            seen.setdefault(str(query), params)
            return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            each = list(params_seq)
            seen.setdefault(str(query), each[0])
            super().executemany(query, each, **options)

    def note(connection: Any, _record: object) -> None:
        if database.engine.dialect.name == "sqlite":
            connection.set_trace_callback(lambda text: seen.setdefault(text, ()))
        else:
            connection.cursor_factory = Noting

    database.engine.dispose()
    notices.listen(database.engine, "connect", note)
    return seen


@pytest.mark.parametrize("with_merges", [True, False])
@pytest.mark.parametrize("statistics", ["of the empty tables", "of the full ones"])
def test_no_hot_query_reads_a_whole_table_or_index(
    database: Database, store: Store, statements: dict[str, Any], statistics: str, with_merges: bool
) -> None:
    # Until a database has counted again, its planner goes by what it counted when little was there.
    if statistics == "of the empty tables":
        analyze(database)
    fill(store, 200, with_merges=with_merges)
    if statistics == "of the full ones":
        analyze(database)
    statements.clear()
    work(store)
    asked = {text: given for text, given in statements.items() if re.match(r"\s*(SELECT|UPDATE|DELETE)", text)}
    assert len({text[:60] for text in asked}) > 8
    for text, given in asked.items():
        plan = explain(database, text, given)
        assert not reads_everything(plan), f"{text}\n{plan}"


def analyze(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("ANALYZE")


def explain(database: Database, statement: str, given: Any) -> str:
    with database.transaction() as connection, driver_cursor(connection) as cursor:
        if database.engine.dialect.name == "sqlite":
            return "\n".join(str(row[-1]) for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}"))
        # So small a table is read whole with good reason; this asks whether an index could serve.
        cursor.execute("SET LOCAL enable_seqscan = off")
        return "\n".join(row[0] for row in cursor.execute(f"EXPLAIN {statement}", given))


BIG = "(?:events|deliveries|attempts)"
WHOLE = re.compile(rf"\bSCAN {BIG}|Seq Scan on {BIG}|hashed SubPlan")
INDEX_SCAN = re.compile(rf"Index (?:Only )?Scan.* (?:on|using) {BIG}")


def reads_everything(plan: str) -> bool:
    """Tell whether a plan goes through a table or an index from end to end, or makes a hash of one."""
    unbounded = (
        INDEX_SCAN.search(line) and "Index Cond" not in following
        for line, following in itertools.pairwise([*plan.splitlines(), ""])
    )
    return WHOLE.search(plan) is not None or any(unbounded)
