"""gateway identify, track, page, destroy and request, against the stand-in for the Track API."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from tests.support.trackapi import Delay, ParsedRequest, Reply, Reset, TrackAPI

KEY = "key-4711"
REGION = "/v1/accounts/region"
EVENTS = "/v1/customers/42/events"
EVENT = '{"name": "Paid", "data": {"total": 5.10}}'
Gateway = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[TrackAPI]:
    with TrackAPI(api_key=KEY) as running:
        yield running


@pytest.fixture
def gateway(api: TrackAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """Run a command in an empty directory, with the credentials of the stand-in and no other setting."""
    for name in list(os.environ):
        if name.startswith(("CUSTOMERIO_", "GATEWAY_", "DATABASE_URL", "DYNO")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    credentials = {
        "CUSTOMERIO_SITE_ID": "site",
        "CUSTOMERIO_API_KEY": KEY,
        "CUSTOMERIO_BASE_URL": api.url,
        "CUSTOMERIO_RETRY_DELAY_MS": "1",
    }

    def run(*words: object, stdin: str | bytes = "", **environ: str) -> Result:
        arguments = [str(word) for word in words]
        result = CliRunner().invoke(main, arguments, input=stdin, env=credentials | environ)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "4711" not in result.output
        return result

    return run


class Requests(list[ParsedRequest]):
    """The requests that a stand-in receives; it answers the first ones with the replies, and applies the others."""

    def __init__(self, *replies: Reply | Reset | Delay) -> None:
        super().__init__()
        self._replies = list(replies)

    def __call__(self, request: ParsedRequest) -> Reply | Reset | Delay | None:
        self.append(request)
        return self._replies.pop(0) if self._replies else None


AWAY = Reply(status=503, body=b'{"meta": {"errors": ["come back later"]}}')


# People and their events


@pytest.mark.parametrize(
    ("words", "person", "kind", "body"),
    [
        (
            (
                *("identify", "--id", 42, "plan=pro", "logins:=3", "vip:=true", "left_at:=null", "note="),
                *('home:={"city": "Oslo"}', "a.b=c=d", "--timestamp", 1767225600),
            ),
            "42",
            "identify",
            {"plan": "pro", "logins": 3, "vip": True, "left_at": None, "note": "", "home": {"city": "Oslo"}}
            | {"a.b": "c=d", "_timestamp": 1767225600},
        ),
        (("track", "Paid", "--id", "42", "total:=-5", "note=-"), "42", "event", {"data": {"total": -5, "note": "-"}}),
        (("track", "--id", "42", "--", "-Paid", "-x=1"), "42", "event", {"name": "-Paid", "data": {"-x": "1"}}),
        (("page", "https://example.com/?a=b", "--cio-id", "abc", "ref=ad"), "cio_abc", "page", {"data": {"ref": "ad"}}),
        (("request", EVENTS, "--data", EVENT), "42", "event", {"name": "Paid", "data": {"total": 5.1}}),
    ],
)
def test_a_command_sends_texts_and_json_and_prints_the_answer(
    api: TrackAPI, gateway: Gateway, words: tuple[object, ...], person: str, kind: str, body: dict[str, Any]
) -> None:
    result = gateway(*words)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "{}\n", "")
    (applied,) = api.applied(person)
    assert (applied.kind, applied.body | body) == (kind, applied.body)
    assert kind != "identify" or applied.body == body


def test_track_takes_a_time_and_an_id_of_the_event(api: TrackAPI, gateway: Gateway) -> None:
    for _ in range(2):
        gateway("track", "Paid", "--id", "42", "--timestamp", 1767225600, "--event-id", "order-7")
    assert api.repeats == 1
    assert api.applied("42")[0].body["timestamp"] == 1767225600


def test_track_records_an_event_of_an_anonymous_person(api: TrackAPI, gateway: Gateway) -> None:
    assert gateway("track", "Paid", "--anonymous-id", "a-1").exit_code == 0
    assert len(api.applied_anonymously("a-1")) == 1


def test_a_person_is_named_by_phone_and_an_event_may_name_nobody(api: TrackAPI, gateway: Gateway) -> None:
    assert gateway("identify", "--phone", "+14155552671").exit_code == 0
    assert list(api.people) == ["phone:+14155552671"]
    assert gateway("track", "Invited", "--anonymous", "recipient=ann@example.com").exit_code == 0
    assert api.count_applied() == 2


def test_destroy_deletes_a_person(api: TrackAPI, gateway: Gateway) -> None:
    gateway("identify", "--email", "ann@example.com")
    assert "email:ann@example.com" in api.people
    result = gateway("destroy", "--email", "ann@example.com")
    assert (result.exit_code, result.stdout, api.people) == (0, "{}\n", {})


@pytest.mark.parametrize(
    ("data", "stdin"),
    [("-", '{"plan": "free", "seats": 2}'), ("@more.json", ""), ('{"plan": "free", "seats": 2}', "")],
)
def test_data_is_an_object_of_attributes_and_the_command_line_wins(
    api: TrackAPI, gateway: Gateway, data: str, stdin: str
) -> None:
    # With a byte order mark, as a text editor on Windows writes it.
    Path("more.json").write_text('{"plan": "free", "seats": 2}\n', encoding="utf-8-sig")
    assert gateway("identify", "--id", "42", "plan=pro", "--data", data, stdin=stdin).exit_code == 0
    assert api.people["id:42"] == {"plan": "pro", "seats": 2}


def test_an_empty_answer_prints_nothing(api: TrackAPI, gateway: Gateway) -> None:
    api.answer = Requests(Reply(status=200))
    result = gateway("identify", "--id", "42")
    assert (result.exit_code, result.stdout) == (0, "")


# Errors before anything is sent

PERSON = ("identify", "--id", "42")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("identify", "42"), "'42' is neither key=text nor key:=json; a person is named by --id 42"),
        (("track", "Paid", "a@example.com"), "a person is named by --email a@example.com"),
        (("page", "*", "Ann B", "--id", "42"), "a person is named by --id 'Ann B'"),
        (("destroy", "42"), "'42' has no place here; a person is named by --id 42"),
        (("identify",), "nobody is named; give --id, --email, --cio-id or --phone"),
        (("track", "Paid"), "nobody is named; give --id, --email, --cio-id, --phone or --anonymous-id"),
        (("destroy", "--id", ""), "nobody is named"),
        (("destroy", "--anonymous-id", "1"), "No such option"),
        ((*PERSON, "a=1", "a:=2"), "'a' is given twice"),
        ((*PERSON, ":=2"), "an attribute has no key"),
        ((*PERSON, "total:=s3cret"), "what follows 'total:=' is not JSON; write total=… for"),
        ((*PERSON, "total:=NaN"), "what follows 'total:=' is not JSON"),
        ((*PERSON, "deep:=" + "[" * 65 + "]" * 65), "what follows 'deep:=' is not JSON"),
        ((*PERSON, "--data", '["s3cret"]'), "--data is not an object of attributes"),
        ((*PERSON, "--data", '{"a": s3cret}'), "--data: the body is not valid JSON at line 1"),
        ((*PERSON, "--timestamp", "1767225600000"), "timestamp is not whole unix seconds"),
        ((*PERSON, "a:=\udcff"), "what follows 'a:=' is not JSON"),
        ((*PERSON, "--region", "de"), "'de' is not one of 'us', 'eu'"),
        (("request", REGION, "--timeout", "nan"), "not over 0 and at most 3600 seconds"),
        (("request", REGION, "--query", "a=1", "--query", "s3cret"), "number 2 of --query is not a name, ="),
        (("request", REGION, "--header", "X:1", "--header", "x: 2"), "--header gives 'x' twice"),
        (("request", REGION, "--file", "a=b", "--file", "a=c"), "--file gives 'a' twice"),
        (("request", REGION, "--json", "{s3cret"), "--json: the body is not valid JSON at line 1"),
        (("request", REGION, "--json", "{}", "--data", "{}"), "--json is given instead of --data and --text"),
        (("request", REGION, "--data", "\udcff"), "--data is not UTF-8 text"),
        (("request", REGION, "--retries", "101"), "is not in the range"),
        (("request", REGION, "--retry-all-errors"), "nothing is tried again without --retries N"),
        (("page", "x" * 1001, "--id", "42"), "url is 1001 bytes long"),
        ((*PERSON, "n=" + "x" * 1001), "attributes.n is 1001 bytes long"),
        ((*PERSON, "n=\udcff"), "attributes holds text that is not valid Unicode"),
        (("track", "\udcff", "--id", "42"), "name holds text that is not valid Unicode"),
        (("destroy", "--id", "\udcff"), "id holds text that is not valid Unicode"),
        (("request", REGION, "--header", "Authorization: s3cret"), "headers.Authorization is set by the gateway"),
        (("request", REGION, "--data", "a", "--form", "a=b"), "data cannot be sent together with 'form'"),
        (("request", REGION, "--file", "a=none.csv"), "--file: none.csv cannot be read (No such file or directory)"),
        (("request", REGION, "--data", "@none"), "--data: none cannot be read (No such file or directory)"),
        (("request", "/api" + REGION), "path is taken below /api already"),
        (("request", "https://elsewhere.example" + REGION), "path has to be a path below /api"),
        (("request", "//elsewhere.example" + REGION), "path has to be a path below /api"),
        (
            ("destroy", "--id", "42", "--connection", "eu-prod"),
            "connection 'eu-prod' is not known: set CUSTOMERIO_EU_PROD_SITE_ID and CUSTOMERIO_EU_PROD_API_KEY",
        ),
        (("destroy", "--id", "42", "--connection", "\udcff"), r"connection '\udcff' is not known"),
    ],
)
def test_a_wrong_command_line_is_an_error_and_sends_nothing(
    api: TrackAPI, gateway: Gateway, words: tuple[str, ...], message: str
) -> None:
    result = gateway(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(("Error: ", "Usage: "))
    assert message in result.stderr
    assert "s3cret" not in result.output
    assert api.requests == 0


def test_an_absolute_address_never_gets_the_credentials(gateway: Gateway) -> None:
    with TrackAPI(api_key=KEY) as elsewhere:
        for path in (elsewhere.url + "/api" + REGION, elsewhere.url.removeprefix("http:") + REGION):
            assert gateway("request", path).exit_code == 1
        assert elsewhere.requests == 0


def test_missing_credentials_are_named(gateway: Gateway) -> None:
    result = gateway("identify", "--id", "42", CUSTOMERIO_SITE_ID="", CUSTOMERIO_API_KEY="")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: connection 'default' is not known: set CUSTOMERIO_SITE_ID and CUSTOMERIO_API_KEY\n",
    )


# Where it goes


def test_a_connection_has_its_own_credentials(api: TrackAPI, gateway: Gateway) -> None:
    own = {"CUSTOMERIO_EU_PROD_SITE_ID": "site", "CUSTOMERIO_EU_PROD_API_KEY": KEY}
    result = gateway(
        *("identify", "--id", "42", "--connection", "eu-prod"),
        CUSTOMERIO_API_KEY="wrong",
        CUSTOMERIO_EU_PROD_BASE_URL=api.url,
        **own,
    )
    assert (result.exit_code, list(api.people)) == (0, ["id:42"])


@pytest.mark.parametrize(("words", "host"), [((), b"track"), (("--region", "eu"), b"track-eu")])
def test_a_region_wins_over_the_connections(gateway: Gateway, words: tuple[str, ...], host: bytes) -> None:
    """A proxy on loopback sees the host of the connection, and refuses it: the network is not reached."""
    connects: list[bytes] = []

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connects.append(connection.recv(65_536).partition(b" HTTP/")[0])
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        direct = dict.fromkeys(("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "CUSTOMERIO_BASE_URL"), "")
        proxied = {"HTTPS_PROXY": proxy, "https_proxy": proxy, "CUSTOMERIO_RETRY_MAX": "0"}
        result = gateway("identify", "--id", "42", *words, **direct, **proxied)
        thread.join()
    assert connects == [b"CONNECT " + host + b".customer.io:443"]
    assert (result.exit_code, result.stdout) == (1, "")


# When it fails


def test_a_call_that_does_not_arrive_is_tried_again_and_each_failure_is_printed(
    api: TrackAPI, gateway: Gateway
) -> None:
    api.answer = Requests(AWAY, Reset(applied=False))
    result = gateway("identify", "--id", "42")
    assert (result.exit_code, result.stdout) == (0, "{}\n")
    first, second = result.stderr.splitlines()
    assert first == "HTTP 503: come back later; next try in 0.0 s"
    assert second.startswith("the connection failed: ")
    assert api.requests == 3


def test_the_connections_policy_limits_the_tries(api: TrackAPI, gateway: Gateway) -> None:
    api.answer = Requests(*[AWAY] * 9)
    result = gateway("track", "Paid", "--id", "42")
    assert (result.exit_code, result.stdout, api.requests) == (1, "", 4)
    assert result.stderr.splitlines()[-1] == "Error: HTTP 503: come back later (given up after 4 tries)"
    assert gateway("track", "Paid", "--id", "42", CUSTOMERIO_RETRY_MAX="0").exit_code == 1
    assert api.requests == 5


def test_a_refusal_is_printed_once_without_terminal_codes(api: TrackAPI, gateway: Gateway) -> None:
    api.answer = Requests(Reply(status=400, body=b'{"meta": {"error": "no \\u001b[31mway"}}'))
    result = gateway("identify", "--id", "42")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: HTTP 400: no ")
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


# Any request


def test_request_prints_the_answer_as_json(gateway: Gateway) -> None:
    result = gateway("request", REGION)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["region"] == "us"
    assert result.stdout.startswith('{\n  "')


def test_request_sends_method_query_and_headers(api: TrackAPI, gateway: Gateway) -> None:
    api.answer = seen = Requests(Reply(status=200, body=b"{}"))
    words = ("--query", "a=1", "--query", "b=x y", "--query", "a=2=2", "--header", "X-Trace: abc: 1")
    assert gateway("request", "/v1/things", "--method", "put", *words, "--data", "{}").exit_code == 0
    (request,) = seen
    assert (request.method, request.target) == ("PUT", b"/api/v1/things?a=1&a=2%3D2&b=x%20y")
    assert request.headers["x-trace"] == "abc: 1"


@pytest.mark.parametrize(
    ("words", "stdin", "body", "content_type"),
    [
        (("--data", '{"n": 1.10}'), "", b'{"n": 1.10}', "application/json"),
        (("--data", "null"), "", b"null", "application/json"),
        (("--data", '"a"'), "", b'"a"', "application/json"),
        (("--data", "{Ü"), "", "{Ü".encode(), "text/plain; charset=utf-8"),
        (("--data", ""), "", b"", "text/plain; charset=utf-8"),
        (("--data", "[1]", "--text"), "", b"[1]", "text/plain; charset=utf-8"),
        (("--data", "-"), "[1]\n", b"[1]\n", "application/json"),
        (("--json", "-"), "[1]", b"[1]", "application/json"),
        (("--data", "@body.json"), "", b'{"from": "file"}', "application/json"),
        (("--data", "{}", "--header", "content-type: text/x"), "", b"{}", "text/x"),
    ],
)
def test_request_sends_a_body_byte_for_byte(
    api: TrackAPI, gateway: Gateway, words: tuple[str, ...], stdin: str, body: bytes, content_type: str
) -> None:
    Path("body.json").write_text('{"from": "file"}')
    api.answer = seen = Requests(Reply(status=200, body=b"{}"))
    assert gateway("request", "/v1/things", *words, stdin=stdin).exit_code == 0
    (request,) = seen
    assert (request.method, request.body) == ("POST", body)
    assert request.headers["content-type"] == content_type


def test_request_sends_fields_and_local_files(api: TrackAPI, gateway: Gateway) -> None:
    Path("sub").mkdir()
    Path("sub/people.csv").write_bytes(b"\xff\x00\r\n")
    Path("more.csv").write_bytes(b"more")
    api.answer = seen = Requests(Reply(status=200, body=b"{}"))
    fields = ("--form", "kind=a", "--form", "kind=b", "--file", "list=sub/people.csv", "--file", "rest=more.csv")
    assert gateway("request", "/v1/import", *fields, "--file-name", "rest=new.csv").exit_code == 0
    (request,) = seen
    kind, _, boundary = request.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/form-data"
    parts = request.body.split(b"--" + boundary.encode())
    contents = [part.partition(b"\r\n\r\n")[2] for part in parts[1:-1]]
    assert contents == [b"a\r\n", b"b\r\n", b"\xff\x00\r\n\r\n", b"more\r\n"]
    assert b'name="list"; filename="people.csv"' in parts[3]
    assert b'name="rest"; filename="new.csv"' in parts[4]


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_request_prints_texts_and_bytes_unchanged(api: TrackAPI, gateway: Gateway, kind: str) -> None:
    api.answer = Requests(Reply(status=200, body=b"\xff\x00 {\r\n"))
    result = gateway("request", "/v1/export", "--response-type", kind)
    assert (result.exit_code, result.stdout_bytes) == (0, b"\xff\x00 {\r\n")


def test_request_accepts_only_json_unless_asked(api: TrackAPI, gateway: Gateway) -> None:
    api.answer = Requests(Reply(status=200, body=b"<html>"))
    result = gateway("request", REGION)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "something else answers at this address" in result.stderr


REFUSAL = Reply(status=400)
RETRIES = ("request", REGION, "--retry-delay", 1, "--retries")


@pytest.mark.parametrize(
    ("words", "faults", "exit_code", "requests"),
    [
        ((*RETRIES, 1), [AWAY], 0, 2),
        ((*RETRIES, 2), [REFUSAL], 1, 1),
        ((*RETRIES, 2, "--retry-all-errors", "--no-exponential"), [REFUSAL] * 2, 0, 3),
        # Without an id of its own in it, the event would count twice.
        *((("request", EVENTS, "--data", EVENT), [fault], 1, 1) for fault in (AWAY, Reset(applied=True))),
    ],
)
def test_request_is_tried_again_only_when_asked_by_its_own_options(
    api: TrackAPI,
    gateway: Gateway,
    words: tuple[object, ...],
    faults: list[Reply | Reset],
    exit_code: int,
    requests: int,
) -> None:
    api.answer = Requests(*faults)
    result = gateway(*words, CUSTOMERIO_RETRY_DELAY_MS="60000", CUSTOMERIO_RETRY_MAX="5")
    assert (result.exit_code, api.requests) == (exit_code, requests)
    assert (result.stdout == "") == (exit_code == 1)
    assert len(result.stderr.splitlines()) == len(faults)
    assert (result.stderr == "HTTP 503: come back later; next try in 0.0 s\n") == (requests == 2)


def test_request_ends_an_attempt_in_time(api: TrackAPI, gateway: Gateway) -> None:
    api.answer = Requests(Delay(seconds=2))
    result = gateway("request", REGION, "--timeout", "0.2")
    assert (result.exit_code, result.stderr) == (1, "Error: no whole answer within 0.2 s\n")


def test_request_waits_for_longer_than_a_delivery_may(gateway: Gateway) -> None:
    assert gateway("request", REGION, "--timeout", "90").exit_code == 0


def test_debug_shows_each_request_and_answer_without_credentials(api: TrackAPI, gateway: Gateway) -> None:
    cookie = {"Set-Cookie": "session=key-4711"}
    api.answer = Requests(Reply(status=503, headers=cookie, body=b"\x1b[31m"))
    result = gateway("request", EVENTS, "--data", EVENT, "--debug", "--retries", 1)
    assert (result.exit_code, result.stdout) == (0, "{}\n")
    assert result.stderr.count("POST /api/v1/customers/42/events\nContent-Type: application/json\n") == 2
    assert result.stderr.count(EVENT) == 2
    assert "HTTP 503\n" in result.stderr
    assert "HTTP 200\n" in result.stderr
    assert "\\x1b[31m" in result.stderr
    assert "authorization" not in result.stderr.lower()
