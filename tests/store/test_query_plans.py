"""How the databases execute the hot queries: by index, however large the tables are."""

from __future__ import annotations

import itertools
import re
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection
from sqlalchemy import event as sqlalchemy_events

from gateway.customerio.retry import Attempt, Decision, Delivered, Failed, Retry
from gateway.store import NewEvent, Outcome, Store
from gateway.store.database import Database
from gateway.store.statements import driver_cursor
from gateway.store.tables import deliveries
from tests.support.rows import Hand, call, event


def fill(store: Store, groups: int, *, with_merges: bool) -> None:
    """Record calls behind each other and merges, or calls each of which is the first of its lane."""
    for first in range(0, groups, 20):
        store.record([group_event(group, with_merges=with_merges) for group in range(first, first + 20)])


def group_event(group: int, *, with_merges: bool) -> NewEvent:
    calls = [call(f"{group}-{n}", n if with_merges else 20 * group + n) for n in range(20)]
    if with_merges:
        calls += [call(f"{group}-merge-{n}", 1_000 * group + n, 2_000 * group + n) for n in range(20)]
    return event(f"{group}", *calls)


def use(store: Store) -> None:
    """Do all that receiver and worker do: new and repeated events, every kind of outcome, a merge, a release."""
    many = [call(f"one of many {lane}", lane) for lane in range(-200, 0)]
    store.record([event("new", call("new", 1), call("merge", 1, 2), call("other", 7), *many), event("1")])
    claimed = Hand(store).claim(limit=8)
    decisions: list[Decision] = [Retry(after=1.0, reason="x"), Failed(reason="x"), *[Delivered()] * len(claimed)]
    outcomes = [
        Outcome(delivery=delivery, attempt=Attempt(status=200), decision=decision)
        for delivery, decision in zip(claimed, decisions, strict=False)
    ]
    store.release(Hand(store).turn(*outcomes, limit=3).claimed)
    Hand(store).claim(limit=1000)


@pytest.fixture
def statements(database: Database) -> dict[str, Any]:
    """The statements that reach the database from now on, each with values that the driver was given."""
    seen: dict[str, Any] = {}

    class RecordingCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> RecordingCursor:
            seen.setdefault(str(query), params)
            return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Any, **options: Any) -> None:
            values = list(params_seq)
            seen.setdefault(str(query), values[0])
            super().executemany(query, values, **options)

    def trace(connection: Any, _record: object) -> None:
        if database.engine.dialect.name == "sqlite":
            connection.set_trace_callback(lambda text: seen.setdefault(text, ()))
        else:
            connection.cursor_factory = RecordingCursor

    database.engine.dispose()
    sqlalchemy_events.listen(database.engine, "connect", trace)
    return seen


@pytest.mark.parametrize("with_merges", [True, False])
@pytest.mark.parametrize("statistics", ["of the empty tables", "of the full ones"])
def test_no_hot_query_reads_a_whole_table_or_index(
    database: Database, store: Store, statements: dict[str, Any], statistics: str, with_merges: bool
) -> None:
    # Until a database counts its rows again, its planner uses the numbers of when there were few.
    if statistics == "of the empty tables":
        analyze(database)
    fill(store, 200, with_merges=with_merges)
    if statistics == "of the full ones":
        analyze(database)
    statements.clear()
    use(store)
    for text, values in queries_of(statements).items():
        with database.transaction() as connection:
            plan = explain(connection, text, values)
        assert not reads_everything(plan), f"{text}\n{plan}"


def test_no_hot_query_can_use_two_indexes_of_what_is_unsettled(
    database: Database, store: Store, statements: dict[str, Any]
) -> None:
    """Where a query has no second index, no statistics can make the planner prefer it: without the first it has none.

    With statistics by which nothing waited, PostgreSQL looked for a lane in the index of all that is due.
    """
    fill(store, 20, with_merges=True)
    analyze(database)
    statements.clear()
    use(store)
    dropped: set[str] = set()
    for text, values in queries_of(statements).items():
        with database.transaction() as connection:
            for index in (indexes := unsettled_indexes(explain(connection, text, values))):
                with connection.begin_nested() as savepoint:
                    connection.exec_driver_sql(f"DROP INDEX {index}")
                    # In another text: SQLite keeps what it has compiled.
                    plan = explain(connection, f"{text} -- without {index}", values)
                    savepoint.rollback()
                assert unsettled_indexes(plan) <= indexes - {index}, f"{text}\nwithout {index}:\n{plan}"
            dropped |= indexes
    assert dropped == UNSETTLED


def queries_of(statements: dict[str, Any]) -> dict[str, Any]:
    """Return those that search, and check that they are not too few."""
    queries = {text: values for text, values in statements.items() if re.match(r"\s*(SELECT|UPDATE|DELETE)", text)}
    assert len({text[:60] for text in queries}) > 8
    return queries


def analyze(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("ANALYZE")


def explain(connection: Connection, statement: str, values: Any) -> str:
    with driver_cursor(connection) as cursor:
        if connection.dialect.name == "sqlite":
            return "\n".join(str(row[-1]) for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}"))
        # A small table is rightly read as a whole; the question is whether an index could be used.
        cursor.execute("SET LOCAL enable_seqscan = off")
        return "\n".join(row[0] for row in cursor.execute(f"EXPLAIN {statement}", values))


#: The indexes of what is not settled, by their conditions.
UNSETTLED = {
    str(index.name)
    for index in deliveries.indexes
    if "'pending'" in (condition := str(index.dialect_options["postgresql"]["where"])) or "'parked'" in condition
} - {"deliveries_ulid"}


def unsettled_indexes(plan: str) -> set[str]:
    return UNSETTLED.intersection(re.findall(r"\bdeliveries_\w+", plan))


BIG = "(?:events|deliveries|attempts)"
WHOLE = re.compile(rf"\bSCAN {BIG}|Seq Scan on {BIG}|hashed SubPlan")
INDEX_SCAN = re.compile(rf"Index (?:Only )?Scan.* (?:on|using) {BIG}")


def reads_everything(plan: str) -> bool:
    """Return whether a plan reads a table or an index from end to end, or makes a hash of one."""
    unbounded = (
        INDEX_SCAN.search(line) and "Index Cond" not in following
        for line, following in itertools.pairwise([*plan.splitlines(), ""])
    )
    return WHOLE.search(plan) is not None or any(unbounded)
