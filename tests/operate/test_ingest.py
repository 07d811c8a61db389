"""Historic payloads: every kind of file, repeated runs, interrupted runs, and what the operator sees."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, event, select

from gateway.cli import main
from gateway.operate.body_files import Body, BodyFiles
from gateway.operate.ingest import GROUP
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.tables import deliveries, events
from tests.deliver.running import wait_until

MAPPING = """\
version: 1
source: shop
verify: {scheme: bearer, secret_env: UNSET_SECRET}
event_type: =header('X-Topic') || type
event_key: =key
events:
  order.paid | topic:
    - call: identify
      id: =customer
    - call: track
      id: =customer
      name: =name
      timestamp: =at
  customer.deleted:
    - {call: destroy, id: =customer, timestamp: =at}
"""


def body(number: int, **changes: Any) -> dict[str, Any]:
    at = 1_577_836_800 + number
    return {"type": "order.paid", "key": number, "customer": number, "name": "Paid", "at": at, **changes}


def lines(*bodies: object) -> bytes:
    return b"".join(json.dumps(body).encode() + b"\n" for body in bodies)


def read(path: Path, *, whole: bool = False) -> list[tuple[str, object]]:
    """Return the bodies of a file, or their problems, after their places."""
    return [
        (item.where.removeprefix(str(path)), item.problem or json.loads(item.data))
        for item in BodyFiles([path], whole=whole)
    ]


# Files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b" \n\n", []),
        (b'{"a": 1}', [("", {"a": 1})]),
        (b'{"a": 1}\n{"a": 2}\n', [(":1", {"a": 1}), (":2", {"a": 2})]),
        (b'\n{"a": 1}\r\n\r\n{"a": 2}', [(":2", {"a": 1}), (":4", {"a": 2})]),
        (b"[1]\n[2]\n", [(":1", [1]), (":2", [2])]),
        (b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', None),
        (b'{\n  "a": 1\n}\n', [("", {"a": 1})]),
        (b'[{"a": 1}, {"a": "]"}]', [("[1]", {"a": 1}), ("[2]", {"a": "]"})]),
        (b'[\n  {"a": 1}\n]', [("[1]", {"a": 1})]),
        (b'[{"a": 1},\n{"a": 2}\n]\n', [("[1]", {"a": 1}), ("[2]", {"a": 2})]),
        (b"[]", []),
    ],
)
def test_a_file_is_lines_or_an_array_of_bodies_or_one_body(
    tmp_path: Path, content: bytes, expected: list[tuple[str, object]] | None, packed: bool
) -> None:
    path = tmp_path / "any.name"
    path.write_bytes(gzip.compress(content) if packed else content)
    if expected is None:
        assert [item.where for item in BodyFiles([path])] == [f"{path}:1", f"{path}:2"]
    else:
        assert read(path) == expected


def test_a_body_is_read_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"b":1.50,  "a":"\\u00e4\xc3\xa4"},\n 2e3]')
    assert [item.data for item in BodyFiles([path])] == [b'{"b":1.50,  "a":"\\u00e4\xc3\xa4"}', b"2e3"]
    assert read(path, whole=True) == [("", [{"b": 1.5, "a": "ää"}, 2000.0])]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"nonsense\n1\n2\n", [(":1", b"nonsense"), (":2", b"1"), (":3", b"2")]),
        (b'{"a": 1, "b\n{"a": 2}\n', [(":1", b'{"a": 1, "b'), (":2", b'{"a": 2}')]),
        (b'{"a": 1}\n{"a": \n{"a": 3}', [(":1", b'{"a": 1}'), (":2", b'{"a":'), (":3", b'{"a": 3}')]),
    ],
)
def test_a_broken_line_is_a_body_of_its_own(tmp_path: Path, content: bytes, expected: list[tuple[str, bytes]]) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert [(item.where.removeprefix(str(path)), item.data) for item in BodyFiles([path])] == expected


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[1, 2", "the array is not valid JSON at line 1, column 6, after item 2"),
        (b"[1 2]", "the array is not valid JSON at line 1, column 4, after item 1"),
        (b"[1] 2", "the array is not valid JSON at line 1, column 5, after item 1"),
        (b"[" * 100_000, "the array is nested too deeply, after item 0"),
        (b'["\xff"]', "the file is not UTF-8 text at byte 3"),
        (gzip.compress(lines(*range(1000)), mtime=0)[:-100], "cannot be read any further"),
        (gzip.compress(b"1\n2\n", mtime=0)[:12] + b"xxxxxxxxxxxx", "cannot be read any further"),
    ],
)
def test_the_problem_of_a_broken_file_names_the_place(tmp_path: Path, content: bytes, problem: str) -> None:
    broken, good = tmp_path / "broken", tmp_path / "good"
    broken.write_bytes(content)
    good.write_bytes(b'{"a": 1}')
    *_, last_of_broken, last = BodyFiles([broken, good])
    assert problem in (last_of_broken.problem or "")
    assert last == Body(where=str(good), data=b'{"a": 1}')


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "large.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(5_000):
            file.write(b'"' + b"x" * 2_000 + b'"\n')
    files = BodyFiles([path])
    tracemalloc.start()
    assert sum(1 for _ in files) == 5_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000
    assert files.position == files.size == path.stat().st_size


# The command


@pytest.fixture
def files(tmp_path: Path, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("GATEWAY_MAX_BODY", "20000")
    monkeypatch.delenv("GATEWAY_MAPPINGS", raising=False)
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "shop.yaml").write_text(MAPPING)
    again = MAPPING.replace("source: shop", "source: again").replace("event_key: =key", "event_key: none")
    (tmp_path / "mappings" / "again.yaml").write_text(again)
    (tmp_path / "mappings" / "broken.yaml").write_text("version: 1\nsource: broken\nevents: [\n")
    return tmp_path


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["ingest", *arguments], input=stdin)


def run_json(*arguments: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return summary


def test_historic_payloads_become_events_and_calls_once(files: Path, database: Database, store: Store) -> None:
    (files / "old.jsonl").write_bytes(lines(*map(body, range(250)), body(7)))
    (files / "more.json").write_text(json.dumps([body(1), body(500), body(501, type="order.new")]))
    result = run("shop", "old.jsonl", "more.json")
    assert result.stdout.splitlines() == [
        "recorded     252 (251 accepted, 1 ignored, 0 failed)",
        "calls        502 (251 identify, 251 track)",
        "duplicates   2",
        "not taken    0",
    ]
    assert (result.exit_code, result.stderr) == (0, "")
    nothing: dict[str, Any] = {"recorded": {}, "calls": {}, "not_taken": 0, "problems": [], "stopped": None}
    nothing["not_sent"] = 0
    assert run_json("shop", "old.jsonl", "more.json") == nothing | {"duplicates": 254}
    with database.engine.connect() as connection:
        calls = [json.loads(call) for call in connection.scalars(select(deliveries.c.call))]
        received_at = min(connection.scalars(select(events.c.received_at)))
    assert len(calls) == 502
    assert min(call["timestamp"] for call in calls if call["call"] == "track") == 1_577_836_800
    assert received_at > 1_767_225_600


def test_calls_from_before_a_deletion_are_counted_as_not_sent(files: Path, store: Store) -> None:
    """The identify has no time of its own: it is from its receipt, and goes."""
    deleted = {"type": "customer.deleted", "customer": 1}
    (files / "old.jsonl").write_bytes(lines(body(90, **deleted), body(30, customer=1), body(31)))
    result = run("shop", "old.jsonl")
    assert "not sent     1 (gateway deliveries list --status cancelled or failed says why)" in result.stdout
    assert store.counts()["deliveries"] == {"pending": 2, "parked": 2, "cancelled": 1}


def test_equal_bodies_without_keys_are_events_of_their_own_and_a_second_run_repeats_none(
    files: Path, store: Store
) -> None:
    (files / "old").write_bytes(lines(body(1), body(2), body(1), body(1)))
    assert run_json("again", "old")["recorded"] == {"accepted": 4}
    assert run_json("again", "old")["duplicates"] == 4
    (files / "old").write_bytes(lines(body(1), body(2), body(1), body(1), body(1)))
    summary = run_json("again", "old")
    assert (summary["recorded"], summary["duplicates"]) == ({"accepted": 1}, 4)
    assert store.counts() == {"events": {"accepted": 5}, "deliveries": {"pending": 2, "parked": 8}}


def test_bodies_that_cannot_be_recorded_are_listed_and_the_others_are_recorded(files: Path, store: Store) -> None:
    content = lines(body(1)) + b"canary\n" + lines(body(2), body(3, at="canary"), body(4, name="x" * 20_000), body(5))
    (files / "old").write_bytes(content)
    result = run("shop", "old")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:4] == [
        "recorded     4 (3 accepted, 0 ignored, 1 failed)",
        "calls        6 (3 identify, 3 track)",
        "duplicates   0",
        "not taken    2",
    ]
    problems = result.stdout.splitlines()[4:]
    assert problems[0] == "old:2: the body is not valid JSON at line 1, column 1"
    assert problems[1] == "old:5: the body is larger than 20000 bytes (GATEWAY_MAX_BODY)"
    assert problems[2].startswith("old:4: failed: mappings/shop.yaml:13:18: ")
    assert "canary" not in result.output
    assert store.counts()["events"] == {"accepted": 3, "failed": 1}


def test_of_many_problems_the_first_are_printed(files: Path) -> None:
    (files / "old.jsonl").write_bytes(b"nonsense\n" * 25)
    result = run("shop", "old.jsonl")
    assert result.stdout.splitlines()[-2:] == [
        "old.jsonl:10: the body is not valid JSON at line 1, column 1",
        "… and 15 more",
    ]


def test_headers_queries_and_standard_input_are_used(files: Path, database: Database) -> None:
    packed = gzip.compress(lines(body(1, type="no"), body(2)))
    headers = ("--header", "X-Topic: topic", "--header", "Authorization: Bearer s3cret")
    result = run("shop", "-", *headers, "--query", "a=b=c", stdin=packed)
    assert "recorded     2 (2 accepted" in result.stdout
    with database.engine.connect() as connection:
        row = connection.execute(select(events)).first()
    assert row is not None
    assert json.loads(row.headers) == {"x-topic": "topic", "authorization": "[redacted]"}
    assert json.loads(row.query) == {"a": "b=c"}


def test_a_dry_run_counts_and_records_nothing(files: Path, store: Store) -> None:
    (files / "old").write_bytes(lines(*map(body, range(5))))
    result = run("shop", "old", "--dry-run", "--limit", "3")
    assert result.stdout.splitlines() == [
        "would record 3 (3 accepted, 0 ignored, 0 failed)",
        "calls        6 (3 identify, 3 track)",
        "not taken    0",
    ]
    assert store.counts() == {"events": {}, "deliveries": {}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shpo", "old"), "there is no source shpo in mappings; did you mean 'shop'?"),
        (("broken", "old"), "mappings/broken.yaml:4:1: error yaml"),
        (("shop", "none"), "'none' does not exist"),
        (("shop", "old", "--header", "X-Topic"), "'X-Topic' has to be followed by a colon and a value"),
        (("shop", "old", "--query", "a"), "'a' has to be followed by = and a value"),
    ],
)
def test_wrong_arguments_are_an_error(files: Path, arguments: tuple[str, ...], message: str) -> None:
    (files / "old").write_bytes(lines(body(1)))
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert result.stdout == ""


def start(files: Path, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway", "ingest", *arguments]
    return subprocess.Popen(command, cwd=files, env=dict(os.environ), **streams)


@pytest.mark.parametrize(
    ("database_url", "number"), [("sqlite", signal.SIGINT), ("postgresql", signal.SIGTERM)], indirect=["database_url"]
)
def test_an_interrupted_run_explains_how_to_continue_and_loses_nothing(
    files: Path, store: Store, number: signal.Signals
) -> None:
    piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    everything = lines(*map(body, range(3 * GROUP)))
    process = start(files, "shop", "-", **piped)
    assert process.stdin is not None
    # Standard input stays open: the second group waits for its rest.
    process.stdin.write(everything[: len(everything) // 2])
    process.stdin.flush()
    wait_until(lambda: store.counts()["events"].get("accepted") == GROUP, 20)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert out.startswith(b"recorded     100 (")
    assert err.decode().splitlines()[-2:] == [
        "stopped: interrupted",
        "to go on, run the same command again: what is recorded is skipped",
    ]
    result = run("shop", "-", stdin=everything)
    assert "recorded     200 (" in result.stdout
    assert "duplicates   100" in result.stdout


def test_a_group_that_is_recorded_during_the_interrupt_is_counted(files: Path, store: Store) -> None:
    (files / "old").write_bytes(lines(*map(body, range(2 * GROUP))))

    def interrupt(_connection: object) -> None:
        # Not at the commits before the work begins, when the signal would end the tests.
        if callable(signal.getsignal(signal.SIGTERM)):
            os.kill(os.getpid(), signal.SIGTERM)

    event.listen(Engine, "commit", interrupt)
    try:
        result = run("shop", "old")
    finally:
        event.remove(Engine, "commit", interrupt)
    assert result.exit_code == 1
    assert result.stdout.startswith("recorded     100 (100 accepted, 0 ignored, 0 failed)\ncalls        200 (")
    assert store.counts()["events"] == {"accepted": GROUP}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_error_stops_the_run(files: Path, database: Database, store: Store) -> None:
    (files / "old").write_bytes(lines(*map(body, range(2 * GROUP))))
    read_only = f'ALTER DATABASE "{database.engine.url.database}" SET default_transaction_read_only = on'
    with database.transaction() as connection:
        connection.exec_driver_sql(read_only)
    result = run("shop", "old")
    assert result.exit_code == 1
    assert "recorded     0 (" in result.stdout
    assert "stopped: the database cannot be used: cannot execute INSERT in a read-only transaction" in result.stderr
    assert "to go on, run the same command again" in result.stderr


# The progress is of what was read, on either database.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_terminal_shows_the_progress(files: Path) -> None:
    (files / "old").write_bytes(lines(*map(body, range(3 * GROUP))))
    ours, theirs = pty.openpty()
    process = start(files, "shop", "old", stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    screen = b""
    while b"100%" not in screen:
        screen += os.read(ours, 1_000)
    out, _ = process.communicate(timeout=20)
    os.close(ours)
    assert screen.decode().lstrip("\r").startswith("\x1b[?25lingesting") or b"ingesting  [" in screen
    assert out.startswith(b"recorded     300 (")
