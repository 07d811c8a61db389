"""The application behind the real gunicorn, and senders that do not follow the rules."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.store import Store
from gateway.store.schema import migrate
from gateway.store.tables import events
from tests.support.databases import opened
from tests.support.gateway_process import WEB
from tests.support.machine import free_port
from tests.support.signatures import VECTORS, secrets_of

MAPPING = "{version: 1, source: open, verify: none, event_type: =type, events: {x: []}}"
PROVEN = (
    "{{version: 1, source: {0}, verify: {{scheme: {1}, secret_env: SECRET_OF_{0}}}, event_key: none, events: {{}}}}"
)
#: Known answers that are wrong.
FORGED = [vector for vector in VECTORS if not vector["valid"]]
SECRET = "s3cret-4711"
ACCESS = "%(r)s|%(U)s|%(q)s|%({raw_uri}e)s|%({path_info}e)s|%({query_string}e)s|%(s)s"
LIMIT = 2_000


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("serving")
    (directory / "open.yaml").write_text(MAPPING)
    (directory / "hidden.yaml").write_text(PROVEN.format("hidden", "path"))
    for number, vector in enumerate(FORGED):
        (directory / f"v{number}.yaml").write_text(PROVEN.format(f"v{number}", vector["scheme"]))
    with opened(f"sqlite:///{directory}/gateway.db") as database:
        migrate(database)
    return directory


@pytest.fixture(scope="module")
def port(directory: Path) -> Iterator[int]:
    port = free_port()
    environ = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": f"sqlite:///{directory}/gateway.db",
        "GATEWAY_MAPPINGS": str(directory),
        "GATEWAY_MAX_BODY": str(LIMIT),
        "GATEWAY_PUBLIC_URL": "https://hooks.example.com",
        "WEB_CONCURRENCY": "1",
        "SECRET_OF_hidden": SECRET,
        # As a platform sets it, with a format of its own.
        "GUNICORN_CMD_ARGS": f"--access-logfile - --access-logformat '{ACCESS}'",
    }
    environ |= {f"SECRET_OF_v{number}": secrets_of(vector)[0] for number, vector in enumerate(FORGED)}
    command = [*WEB, "--bind", f"127.0.0.1:{port}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(port)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(port: int) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), sender(port) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            if answer(connection)[0] == 200:
                return
        time.sleep(0.05)
    raise TimeoutError("gunicorn does not answer")


def sender(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def head(*headers: str, path: str = "/hooks/open") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, object], bool]:
    """Read one answer: its status, its JSON, and whether the connection is kept."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(4096) or pytest.fail("the connection was closed without an answer")
    before, _, body = received.partition(b"\r\n\r\n")
    length = int(before.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(4096)
    return int(received[9:12]), json.loads(body), b"connection: keep-alive" in before.lower()


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(4096)[9:12])


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_kept_connection_accepts_one_webhook_after_the_other(port: int) -> None:
    with sender(port) as connection:
        for number in range(3):
            body = json.dumps({"type": "x", "number": number}).encode()
            connection.sendall(head(f"Content-Length: {len(body)}") + body)
            status, _, kept = answer(connection)
            assert (status, kept) == (202, True)


def test_a_chunked_body_is_accepted(port: int) -> None:
    with sender(port) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + b'b\r\n{"type":"x"\r\n1\r\n}\r\n0\r\n\r\n')
        assert answer(connection)[0] == 202


def test_a_length_over_the_limit_is_refused_before_any_of_the_body_is_sent(port: int) -> None:
    with sender(port) as connection:
        connection.sendall(head(f"Content-Length: {LIMIT + 1}"))
        status, body, _ = answer(connection)
    assert (status, body) == (413, {"error": "the body is larger than 2000 bytes"})


def test_after_a_huge_length_the_connection_is_closed(port: int) -> None:
    with sender(port) as connection:
        connection.sendall(head(f"Content-Length: {10**12}"))
        status, _, kept = answer(connection)
        assert (status, kept) == (413, False)
        assert is_closed(connection)


def test_an_endless_chunked_body_is_not_read_forever(port: int) -> None:
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    with sender(port) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + chunk)
        status, _, kept = answer(connection)
        assert (status, kept) == (413, False)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100 * 1_048_576:
                connection.sendall(chunk)
                sent += len(chunk)
        assert sent < 20 * 1_048_576


def test_a_sender_that_is_still_sending_can_read_the_refusal(port: int) -> None:
    with sender(port) as connection:
        connection.sendall(head(f"Content-Length: {3 * 1_048_576}"))
        for _ in range(3 * 16):
            connection.sendall(b" " * 65_536)
        assert answer(connection)[0] == 413


def test_a_body_that_stops_early_delays_nobody_else(port: int) -> None:
    with sender(port) as slow, sender(port) as other:
        slow.sendall(head("Content-Length: 500") + b'{"type"')
        body = b'{"type": "x", "other": 1}'
        other.sendall(head(f"Content-Length: {len(body)}") + body)
        assert answer(other)[0] == 202


@pytest.mark.parametrize(
    "begun",
    [
        head("Content-Length: 500") + b'{"type": "x"}',
        head("Transfer-Encoding: chunked") + b'd\r\n{"type": "x"}\r\n',
        head("Transfer-Encoding: chunked") + b'd\r\n{"type": "x"',
    ],
)
def test_an_interrupted_body_records_nothing(port: int, directory: Path, begun: bytes) -> None:
    before = counts(directory)
    with sender(port) as connection:
        connection.sendall(begun)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            connection.recv(4096)
    time.sleep(0.2)
    assert counts(directory) == before


def counts(directory: Path) -> dict[str, dict[str, int]]:
    with opened(f"sqlite:///{directory}/gateway.db") as database:
        return Store(database).counts()


def test_a_chunked_body_over_the_limit_is_not_cut(port: int) -> None:
    body = b'{"type": "x"}' + b" " * LIMIT
    with sender(port) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert answer(connection)[0] == 413


def test_forged_webhooks_of_all_schemes_are_refused(port: int) -> None:
    for number, vector in enumerate(FORGED):
        body = vector["body"].encode()
        _, mark, query = vector["url"].partition("?")
        headers = {"Content-Type": "application/json"} | vector["headers"]
        lines = [f"{vector['method']} /hooks/v{number}{mark}{query} HTTP/1.1", "Host: x"]
        lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        with sender(port) as connection:
            connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
            assert status_of(connection) == 401, vector["id"]


@pytest.mark.parametrize("header", ["x" * 16_384, "v1=" + "0" * 16_000, "\xff" * 300, ",,,,", "t=,v1="])
def test_a_signature_header_of_any_size_and_form_is_a_401(port: int, header: str) -> None:
    number = next(number for number, vector in enumerate(FORGED) if vector["scheme"] == "stripe")
    lines = [f"POST /hooks/v{number} HTTP/1.1", "Host: x", "Content-Length: 2", f"Stripe-Signature: {header}"]
    with sender(port) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + b"\xff\xfe")
        assert status_of(connection) == 401


def test_a_secret_in_an_address_is_in_no_log(port: int, directory: Path) -> None:
    for path, status in (
        (f"/hooks/hidden/{SECRET}", 202),
        (f"/hooks/hidden/x?token={SECRET}", 401),
        (f"//Hooks//hidden/{SECRET}/", 202),
        (f"/hook/hidden/{SECRET}?a={SECRET}", 404),
        (f"/hooks/hidden&token={SECRET}", 404),
        (f"/hooks/hidden;{SECRET}/a", 404),
        (f"/{SECRET[:4]}/%0a{SECRET}", 404),
        (f"/%68ooks/hidden/{SECRET}?a={SECRET}", 202),
        (f"/hooks/hidden/{SECRET}%0aforged", 401),
        (f"http://x/hooks/hidden/{SECRET}?a={SECRET}", 202),
        (f"/hooks/hidden/{SECRET}?name=\u00e9", 400),
    ):
        with sender(port) as connection:
            connection.sendall(head("Content-Length: 2", path=path) + b"{}")
            assert status_of(connection) == status, path
    logged = wait_for_line(directory / "log", "/hooks/hidden/[redacted]|/hooks/hidden/[redacted]|")
    assert SECRET not in logged
    assert "\nforged" not in logged
    assert "|/healthz|" in logged


@pytest.mark.parametrize("chunks", [b"zz\r\n{}\r\n", b"2\r\n{}xx", b"0\r\nno trailer\r\n\r\n"])
def test_a_chunked_body_that_is_malformed_is_a_400(port: int, chunks: bytes) -> None:
    with sender(port) as connection:
        connection.sendall(head("Transfer-Encoding: chunked") + chunks)
        assert status_of(connection) == 400


def test_a_header_with_an_underscore_in_its_name_does_not_arrive(port: int, directory: Path) -> None:
    with sender(port) as connection:
        body = b'{"type":"x","n":"_"}'
        connection.sendall(head("X_Topic: one", "X-Other: two", f"Content-Length: {len(body)}") + body)
        assert status_of(connection) == 202
    with opened(f"sqlite:///{directory}/gateway.db") as database, database.engine.connect() as rows:
        names = json.loads(rows.execute(select(events.c.headers).where(events.c.body == body)).scalar_one())
    assert "x-other" in names
    assert "x-topic" not in names


def test_no_header_changes_the_path(port: int) -> None:
    with sender(port) as connection:
        connection.sendall(head("SCRIPT_NAME: /nope", "Content-Length: 12") + b'{"type":"x"}')
        assert status_of(connection) in (200, 202)


def wait_for_line(log: Path, text: str) -> str:
    ends = time.monotonic() + 5
    while text not in (logged := log.read_text(errors="replace")) and time.monotonic() < ends:
        time.sleep(0.05)
    assert text in logged
    return logged


def test_a_gzip_bomb_is_refused_quickly(port: int) -> None:
    bomb = gzip.compress(b" " * 500_000)
    assert len(bomb) < LIMIT
    with sender(port) as connection:
        began = time.monotonic()
        connection.sendall(head(f"Content-Length: {len(bomb)}", "Content-Encoding: gzip") + bomb)
        assert answer(connection)[0] == 413
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("path", ["/hooks/nobody", "/hooks/%0a%1b[31mx", "/hooks/open/secret", "/hooks/../healthz"])
def test_other_addresses_are_not_found(port: int, path: str) -> None:
    with sender(port) as connection:
        connection.sendall(head("Content-Length: 2", path=path) + b"{}")
        assert answer(connection)[0] in (404, 405)
