"""Historic payloads: every kind of file, run again, stopped in the middle, and in the way of nobody."""

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
"""


def body(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": "order.paid",
        "key": number,
        "customer": number,
        "name": "Paid",
        "at": 1_577_836_800 + number,
    } | changes


def lines(*bodies: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in bodies)


def read(path: Path, *, whole: bool = False) -> list[tuple[str, object]]:
    """What the file's bodies say, or what is wrong with them, and where they stand."""
    return [
        (each.where.removeprefix(str(path)), each.problem or json.loads(each.data))
        for each in BodyFiles([path], whole=whole)
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
        assert [each.where for each in BodyFiles([path])] == [f"{path}:1", f"{path}:2"]
    else:
        assert read(path) == expected


def test_a_body_is_kept_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"b":1.50,  "a":"\\u00e4\xc3\xa4"},\n 2e3]')
    assert [each.data for each in BodyFiles([path])] == [b'{"b":1.50,  "a":"\\u00e4\xc3\xa4"}', b"2e3"]


def test_whole_files_are_one_body_each(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[1, 2]\n")
    assert read(path, whole=True) == [("", [1, 2])]


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
    assert [(each.where.removeprefix(str(path)), each.data) for each in BodyFiles([path])] == expected


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_a_file_that_breaks_off_says_where(tmp_path: Path, content: bytes, said: str) -> None:
    broken, good = tmp_path / "broken", tmp_path / "good"
    broken.write_bytes(content)
    good.write_bytes(b'{"a": 1}')
    files = BodyFiles([broken, good])
    *_, last_but_one, last = files
    assert last_but_one.problem is not None
    assert said in last_but_one.problem
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


def run(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["ingest", *arguments], input=given)


def told(result: Result) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(result.stdout)
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
    again = run("shop", "old.jsonl", "more.json", "--json")
    assert told(again) == {
        "recorded": {},
        "calls": {},
        "duplicates": 254,
        "not_taken": 0,
        "problems": [],
        "stopped": None,
    }
    with database.engine.connect() as connection:
        calls = [json.loads(each) for each in connection.scalars(select(deliveries.c.call))]
        received_at = min(connection.scalars(select(events.c.received_at)))
    assert len(calls) == 502
    assert min(each["timestamp"] for each in calls if each["call"] == "track") == 1_577_836_800
    assert received_at > 1_767_225_600


def test_without_keys_of_their_own_equal_bodies_count_each_and_a_second_run_repeats_none(
    files: Path, store: Store
) -> None:
    (files / "old").write_bytes(lines(body(1), body(2), body(1), body(1)))
    assert told(run("again", "old", "--json"))["recorded"] == {"accepted": 4}
    assert told(run("again", "old", "--json"))["duplicates"] == 4
    (files / "old").write_bytes(lines(body(1), body(2), body(1), body(1), body(1)))
    summary = told(run("again", "old", "--json"))
    assert (summary["recorded"], summary["duplicates"]) == ({"accepted": 1}, 4)
    assert store.counts() == {"events": {"accepted": 5}, "deliveries": {"pending": 2, "parked": 8}}


def test_what_cannot_be_taken_is_named_and_the_rest_goes_on(files: Path, store: Store) -> None:
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


def test_of_many_problems_the_first_are_shown(files: Path) -> None:
    (files / "old.jsonl").write_bytes(b"nonsense\n" * 25)
    result = run("shop", "old.jsonl")
    assert result.stdout.splitlines()[-2:] == [
        "old.jsonl:10: the body is not valid JSON at line 1, column 1",
        "… and 15 more",
    ]


def test_headers_queries_and_standard_input_are_as_they_were_sent(files: Path, database: Database) -> None:
    given = gzip.compress(lines(body(1, type="no"), body(2)))
    headers = ("--header", "X-Topic: topic", "--header", "Authorization: Bearer s3cret")
    result = run("shop", "-", *headers, "--query", "a=b=c", given=given)
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
    ("arguments", "said"),
    [
        (("shpo", "old"), "there is no source shpo in mappings; did you mean 'shop'?"),
        (("broken", "old"), "mappings/broken.yaml:4:1: error yaml"),
        (("shop", "none"), "'none' does not exist"),
        (("shop", "old", "--header", "X-Topic"), "'X-Topic' has to be followed by a colon and a value"),
        (("shop", "old", "--query", "a"), "'a' has to be followed by = and a value"),
    ],
)
def test_what_is_asked_wrongly_is_said(files: Path, arguments: tuple[str, ...], said: str) -> None:
    (files / "old").write_bytes(lines(body(1)))
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert result.stdout == ""


def start(files: Path, *arguments: str, **files_of_it: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway", "ingest", *arguments]
    return subprocess.Popen(command, cwd=files, env=dict(os.environ), **files_of_it)


@pytest.mark.parametrize(
    ("database_url", "number"), [("sqlite", signal.SIGINT), ("postgresql", signal.SIGTERM)], indirect=["database_url"]
)
def test_a_run_that_is_interrupted_says_how_to_go_on_and_loses_nothing(
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
    result = run("shop", "-", given=everything)
    assert "recorded     200 (" in result.stdout
    assert "duplicates   100" in result.stdout


def test_what_is_recorded_while_the_interrupt_comes_is_counted(files: Path, store: Store) -> None:
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
def test_a_database_that_takes_no_more_stops_the_run(files: Path, database: Database, store: Store) -> None:
    (files / "old").write_bytes(lines(*map(body, range(2 * GROUP))))
    with database.transaction() as connection:
        connection.exec_driver_sql(
            f'ALTER DATABASE "{database.engine.url.database}" SET default_transaction_read_only = on'
        )
    result = run("shop", "old")
    assert result.exit_code == 1
    assert "recorded     0 (" in result.stdout
    assert "stopped: the database cannot be used: cannot execute INSERT in a read-only transaction" in result.stderr
    assert "to go on, run the same command again" in result.stderr


# It is shown what was read, whatever keeps it.
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_terminal_is_shown_how_far_it_is(files: Path) -> None:
    (files / "old").write_bytes(lines(*map(body, range(3 * GROUP))))
    ours, theirs = pty.openpty()
    process = start(files, "shop", "old", stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while b"100%" not in shown:
        shown += os.read(ours, 1_000)
    out, _ = process.communicate(timeout=20)
    os.close(ours)
    assert shown.decode().lstrip("\r").startswith("\x1b[?25lingesting") or b"ingesting  [" in shown
    assert out.startswith(b"recorded     300 (")
