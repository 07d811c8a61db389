"""From the request to the recorded event, on both databases; only the socket and Customer.io are missing."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import logging
import re
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Row, select
from werkzeug.test import TestResponse

from gateway.app import create_app
from gateway.operate.replay import Replay, Replayed
from gateway.payload import FORM
from gateway.receive.sources import load_source
from gateway.receive.view import FAILED
from gateway.store import Store
from gateway.store.database import Database
from gateway.store.notices import Notices
from gateway.store.tables import deliveries, events
from tests.conftest import MakeApp
from tests.support.rows import open_notices

SECRET = "s3cret-4711"
UNPROVEN = {"X-Hub-Signature-256": "sha256=00"}

MAPPING = Path(__file__).with_name("shop.yaml").read_text(encoding="utf-8")
PLAIN = "{{version: 1, source: {}, verify: {}, event_type: =type{}, events: {{x: [{{call: destroy, id: =id}}]}}}}"
HUB = """
version: 1
source: hub
verify: {scheme: github, secret_env: SHOP_SECRET}
events: {star.created: [{call: track, id: =sender.id, name: Starred, attributes: {repository: =repository}}]}
"""
SOAP = """
version: 1
source: soap
verify: {scheme: github, secret_env: SHOP_SECRET}
answer: {status: 201, body: "<Ack>true</Ack>", content_type: text/xml; charset=utf-8}
event_type: =type
event_key: =Message.Id
events: {x: [{call: destroy, id: =id}], "*": [{call: track, id: =Message.Id, name: Changed}]}
"""
BROKEN = "version: 1\nsource: crooked\nevents: [\n"


@pytest.fixture
def mappings(tmp_path: Path) -> Path:
    directory = tmp_path / "mappings"
    directory.mkdir()
    files = {
        "shop": MAPPING,
        "open": PLAIN.format("open", "none", ""),
        "again": PLAIN.format("again", "none", ", event_key: none"),
        "hub": HUB,
        "soap": SOAP,
        "token": PLAIN.format("token", "{scheme: bearer, secret_env: TOKEN_SECRET}", ""),
        "unset": PLAIN.format("unset", "{scheme: bearer, secret_env: UNSET_SECRET}", ""),
        "broken": BROKEN,
    }
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


@pytest.fixture
def environ(database: Database, mappings: Path) -> dict[str, str]:
    return {
        "DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "GATEWAY_MAPPINGS": str(mappings),
        "GATEWAY_MAX_BODY": "20000",
        "SHOP_SECRET": SECRET,
        "TOKEN_SECRET": SECRET,
    }


@pytest.fixture
def web(make_app: MakeApp, environ: dict[str, str], database: Database) -> FlaskClient:
    return make_app(environ, database).test_client()


def signed(body: bytes, **headers: str) -> dict[str, str]:
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json", **headers}


def post(web: FlaskClient, payload: object, source: str = "shop", **headers: str) -> TestResponse:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return web.post(f"/hooks/{source}", data=body, headers=signed(body, **headers))


def error_of(answer: TestResponse) -> str:
    """Return the one text of a JSON answer that reports an error."""
    assert answer.json is not None
    assert list(answer.json) == ["error"]
    return str(answer.json["error"])


def rows(database: Database, table: Any) -> list[Row[Any]]:
    with database.engine.connect() as connection:
        return list(connection.execute(select(table).order_by(table.c.id)))


def paid(**changes: Any) -> dict[str, Any]:
    return {"type": "order.paid", "key": "k1", "id": "o1", "customer": 42, "total": 49.5, "orders": 1, **changes}


def test_a_signed_webhook_is_recorded_with_its_calls_before_it_is_answered(
    web: FlaskClient, database: Database
) -> None:
    answer = post(web, paid())
    (event,) = rows(database, events)
    assert (answer.status_code, answer.json) == (202, {"event": event.id, "calls": 2})
    assert (event.source, event.status, event.event_type) == ("shop", "accepted", "order.paid")
    assert event.problem is None
    assert json.loads(event.body) == paid()
    track, identify = rows(database, deliveries)
    assert [track.status, identify.status] == ["pending", "parked"]
    assert track.lane == identify.lane
    assert json.loads(track.call)["name"] == "Order Paid"
    assert len(json.loads(track.call)["event_id"]) == 26
    assert json.loads(identify.call) == {"call": "identify", "id": "42", "attributes": {"orders": 1}}


@pytest.mark.parametrize("host", ["a" * 70, "..", f"{'a' * 64}.example.com", "", "[::1", "shop example"])
def test_a_webhook_is_accepted_whatever_its_host_header_says(web: FlaskClient, host: str) -> None:
    body = json.dumps({"id": host, "type": "x"}).encode()
    answer = web.post("/hooks/open", data=body, headers={"Content-Type": "application/json", "Host": host})
    assert answer.status_code == 202


def test_a_repeat_is_answered_200_and_recorded_once(web: FlaskClient, database: Database) -> None:
    first = post(web, paid())
    again = post(web, paid(total=50))
    assert first.json is not None
    assert (again.status_code, again.json) == (200, {"event": first.json["event"], "duplicate": True})
    assert len(rows(database, events)) == 1


def test_twenty_repeats_of_one_event_in_a_row_are_told_to_the_operator(
    web: FlaskClient, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The mapping's event key is a constant, such as a field that is missing leaves behind."""
    told = (
        "the last 20 webhooks of source shop were all repeats of event 1, so none of them was recorded; if they"
        " differ, let 'event_key' in its mapping name what differs"
    )
    for number in range(20):
        post(web, paid(key="paid", total=number))
    post(web, paid(key="other", id="o2"))
    for number in range(20):
        assert told not in caplog.text, number
        assert open_notices(database) == []
        post(web, paid(key="paid", total=number))
    assert caplog.text.count(told) == 1
    assert Notices(database).open_texts("repeats") == {"shop": told}
    for _ in range(20):
        post(web, paid(key="paid"))
    assert caplog.text.count(told) == 1


@pytest.mark.parametrize(
    ("source", "webhooks"),
    [
        ("shop", [(paid(key=None), "d1", 202), (paid(key=None), "d1", 200), (paid(key=None), "d2", 202)]),
        (
            "open",
            [({"type": "x", "id": 1}, "", 202), ({"type": "x", "id": 1}, "", 200), ({"type": "x", "id": 2}, "", 202)],
        ),
        ("again", [({"type": "x", "id": 1}, "", 202), ({"type": "x", "id": 1}, "", 202)]),
    ],
    ids=["the delivery id of the scheme", "the body", "nothing, with event_key none"],
)
def test_without_an_event_key_a_webhook_is_identified_by(
    web: FlaskClient, database: Database, source: str, webhooks: list[tuple[Any, str, int]]
) -> None:
    statuses = [post(web, body, source, **{"X-GitHub-Delivery": id_}).status_code for body, id_, _ in webhooks]
    assert statuses == [status for _, _, status in webhooks]
    identities = [row.identity for row in rows(database, deliveries)]
    assert len(set(identities)) == len(identities) > 0


@pytest.mark.parametrize("changes", [{"type": "order.new"}, {"live": False}])
def test_a_webhook_without_a_rule_is_recorded_as_ignored(
    web: FlaskClient, database: Database, changes: dict[str, Any]
) -> None:
    answer = post(web, paid(**changes))
    (event,) = rows(database, events)
    assert (answer.status_code, answer.json, event.status) == (202, {"event": event.id, "calls": 0}, "ignored")


def test_a_mapping_that_fails_leaves_the_event_as_failed_with_file_line_and_field(
    web: FlaskClient, database: Database, mappings: Path
) -> None:
    answer = post(web, paid(type="order.broken", total="canary"))
    (event,) = rows(database, events)
    # The sender is not told where the files of this machine are, nor what stands in them.
    assert (answer.status_code, answer.json) == (202, {"event": event.id, "calls": 0, "error": FAILED})
    assert event.status == "failed"
    assert event.problem.startswith(f"{mappings}/shop.yaml:17:16: ")
    assert "total" in event.problem
    assert "canary" not in event.problem
    assert rows(database, deliveries) == []


@pytest.mark.parametrize(
    ("webhook", "problem"),
    [
        (paid(key={"a": 1}), "event_key: must be text or a number, got an object"),
        (paid(type="order.huge", name="n" * 101), "name: is 101 bytes long"),
    ],
    ids=["its key fails", "Customer.io would refuse its call"],
)
def test_an_event_fails_and_is_recorded_once_if(
    web: FlaskClient, database: Database, webhook: dict[str, Any], problem: str
) -> None:
    assert [post(web, webhook).status_code for _ in range(2)] == [202, 200]
    (event,) = rows(database, events)
    assert event.status == "failed"
    assert problem in event.problem


def test_a_form_is_an_object_of_text(web: FlaskClient, database: Database) -> None:
    body = b"type=order.paid&key=k1&id=o1&customer=42&total=9"
    answer = post(web, body, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 202
    assert json.loads(rows(database, deliveries)[0].call)["attributes"] == {"total": "9"}


def test_json_in_a_field_of_a_form_is_the_body(web: FlaskClient, database: Database) -> None:
    webhook = json.dumps({"action": "created", "sender": {"id": 7}, "repository": "gateway"})
    body = urlencode({"payload": webhook}).encode()
    answer = post(web, body, "hub", **{"Content-Type": FORM, "X-GitHub-Event": "star", "X-GitHub-Delivery": "d1"})
    (event,) = rows(database, events)
    assert (answer.status_code, answer.json) == (202, {"event": event.id, "calls": 1})
    assert (event.event_type, event.body) == ("star.created", body)
    assert json.loads(rows(database, deliveries)[0].call)["attributes"] == {"repository": "gateway"}


def test_a_mapping_prescribes_the_answer_to_every_webhook_that_is_kept(web: FlaskClient, database: Database) -> None:
    soap = b"<s:Message xmlns:s='urn:x'><s:Id>1</s:Id></s:Message>"
    xml = {"Content-Type": "text/xml"}
    for body, headers in ((soap, xml), (soap, xml), (b"<s:Mess", xml), (b'{"type": "x"}', {})):
        answer = post(web, body, "soap", **headers)
        assert (answer.status_code, answer.text) == (201, "<Ack>true</Ack>")
        assert answer.content_type == "text/xml; charset=utf-8"
    assert [event.status for event in rows(database, events)] == ["accepted", "failed", "failed"]
    assert post(web, soap, "soap", **UNPROVEN).status_code == 401


#: A body that its sender has proven, its headers, the problem, and what makes it readable again.
UNREADABLE = {
    "cut off": (b'{"type": "order.paid', {}, "the body is not valid JSON at line 1, column 10"),
    "empty": (b"", {}, "the body is empty"),
    "NaN": (b'{"a": NaN}', {}, "NaN"),
    "nesting": (b"[" * 65 + b"]" * 65, {}, "64 levels"),
    "charset": (
        b'{"name": "Zo\xeb"}',
        {"Content-Type": "application/json; charset=utf-8"},
        "not UTF-8 text at byte 13",
    ),
    "no type": (b"<p>Hello", {"Content-Type": "text/html"}, "the content type is not read here"),
    "multipart": (b"--B\r\n", {"Content-Type": "multipart/form-data; boundary=B"}, "not valid multipart/form-data"),
    "many fields": (b"a=1&" * 1_001, {"Content-Type": FORM}, "more than 1,000 fields"),
    "xml": (b"<!DOCTYPE a><a/>", {"Content-Type": "application/xml"}, "document type"),
    "bad gzip": (b"\x1f\x8b" + b"x" * 20, {"Content-Encoding": "gzip"}, "not valid gzip"),
    "cut gzip": (gzip.compress(b"{}", mtime=0)[:-4], {"Content-Encoding": "gzip"}, "cut off"),
    "brotli": (b"\x0b\x02\x80{}\x03", {"Content-Encoding": "br"}, "Content-Encoding is not supported"),
}


def test_a_proven_webhook_that_cannot_be_read_is_kept_as_failed(
    web: FlaskClient, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    for body, headers, problem in UNREADABLE.values():
        caplog.clear()
        for delivery in ({}, {"X-GitHub-Delivery": problem}):
            assert [post(web, body, **headers, **delivery).status_code for _ in range(2)] == [202, 200]
        *_, first, second = rows(database, events)
        for event, key in ((first, hashlib.sha256(body).hexdigest()), (second, problem)):
            assert (event.status, event.event_type, event.body) == ("failed", None, body)
            assert problem in event.problem
            assert event.key == hashlib.sha256(key.encode()).digest()
        assert caplog.messages == [f"event {event.id}: failed: {event.problem}" for event in (first, second)]
    assert rows(database, deliveries) == []
    statuses = [event.status for event in rows(database, events)]
    assert statuses == ["failed"] * 2 * len(UNREADABLE)


def test_every_unreadable_webhook_counts_where_the_mapping_says_so(web: FlaskClient, database: Database) -> None:
    assert [post(web, b"{", "again").status_code for _ in range(2)] == [202, 202]
    assert [event.status for event in rows(database, events)] == ["failed", "failed"]


def test_an_unreadable_webhook_is_replayed_when_it_can_be_read(
    web: FlaskClient, database: Database, mappings: Path
) -> None:
    assert post(web, b"payload={&type=x&id=1", "hub", **{"Content-Type": FORM}).status_code == 202
    (event,) = rows(database, events)
    problem = "the field payload of the form is not valid JSON at line 1, column 2; it looks cut off"
    replay, path = Replay(database), mappings / "hub.yaml"
    assert (event.status, event.problem) == ("failed", problem)
    assert replay.replay(event.id, load_source(path, {}).require_mapping()) == Replayed(
        status="failed", problem=problem
    )

    path.write_text(PLAIN.format("hub", "{scheme: {base: github, json_field: other}, secret_env: S}", ""))
    assert replay.replay(event.id, load_source(path, {}).require_mapping()) == Replayed(status="accepted", new=1)
    (event,) = rows(database, events)
    assert (event.status, event.event_type, event.problem) == ("accepted", "x", None)


BODIES = st.binary(min_size=1, max_size=100) | st.sampled_from([body for body, _, _ in UNREADABLE.values() if body])
CONTENT_TYPES = ["application/json", FORM, "multipart/form-data; boundary=B", "text/xml; charset=gbk", "a/b", ""]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=BODIES, content_type=st.sampled_from(CONTENT_TYPES), encoding=st.sampled_from(["", "gzip", "br", "utf-8"]))
def test_every_proven_webhook_is_recorded(
    web: FlaskClient, database: Database, body: bytes, content_type: str, encoding: str
) -> None:
    answer = post(web, body, "again", **{"Content-Type": content_type, "Content-Encoding": encoding})
    assert answer.status_code == 202
    assert rows(database, events)[-1].body == body


@pytest.mark.parametrize("signs_packed", [True, False])
def test_a_gzip_body_is_unpacked_and_either_form_may_be_signed(
    web: FlaskClient, database: Database, signs_packed: bool
) -> None:
    plain = json.dumps(paid()).encode()
    packed = gzip.compress(plain)
    headers = signed(packed if signs_packed else plain, **{"Content-Encoding": "gzip"})
    assert web.post("/hooks/shop", data=packed, headers=headers).status_code == 202
    assert rows(database, events)[0].body == plain


def test_a_body_is_unpacked_only_once(web: FlaskClient, database: Database) -> None:
    inner = gzip.compress(b'{"type": "x", "id": "1", "more": "%s"}' % (b"x" * 100_000))
    assert post(web, gzip.compress(inner), "open", **{"Content-Encoding": "gzip"}).status_code == 202
    (event,) = rows(database, events)
    assert (event.status, event.body) == ("failed", inner)


def test_secrets_in_headers_are_redacted_before_anything_is_recorded(web: FlaskClient, database: Database) -> None:
    sent = {"Authorization": f"Bearer {SECRET}", "Proxy-Authorization": f"Basic {SECRET}", "X-Own": "kept"}
    assert post(web, {"type": "x", "id": 1}, "token", **sent).status_code == 202
    headers = json.loads(rows(database, events)[0].headers)
    assert SECRET not in json.dumps(headers)
    assert (headers["authorization"], headers["proxy-authorization"]) == ("[redacted]", "[redacted]")
    assert headers["x-own"] == "kept"


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "order.paid", "key": "\\u0000", "id": "\\u0000", "customer": "a\\u0000b", "total": 1}',
        b'{"type": "order.paid", "key": "\\ud800", "id": "\\udfff", "customer": "a\\ud800", "total": "\\ud800"}',
        b'{"type": "\\u0000\\ud800", "key": "x", "customer": "y"}',
        json.dumps(paid(key="k" * 16_000)).encode(),
        json.dumps(paid(total=10**400)).encode(),
    ],
    ids=["nul", "surrogate", "odd type", "long key", "absurd number"],
)
def test_odd_text_and_numbers_are_recorded(web: FlaskClient, database: Database, body: bytes) -> None:
    assert post(web, body).status_code == 202
    assert rows(database, events)[0].body == body


@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        (b"{}", UNPROVEN, 401, "not proven"),
        (b"{", UNPROVEN, 401, "not proven"),
        (b'{"a": "' + b"x" * 20_000 + b'"}', {}, 413, "20000"),
        (gzip.compress(b" " * 1_000_000, mtime=0), {"Content-Encoding": "gzip"}, 413, "unpacked"),
        (b"\x1f\x8b", {"Content-Encoding": "gzip", **UNPROVEN}, 400, "gzip"),
        (b"{}", {"Content-Encoding": "br", **UNPROVEN}, 415, "gzip"),
    ],
    ids=["signature", "cut off", "too large", "bomb", "bad gzip", "brotli"],
)
def test_bad_input_is_answered_in_one_line_and_records_nothing(
    web: FlaskClient,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
    headers: dict[str, str],
    status: int,
    text: str,
) -> None:
    answer = post(web, body, **headers)
    assert answer.status_code == status
    assert ("GATEWAY_MAX_BODY sets the limit" in caplog.text) == (status == 413)
    error = error_of(answer)
    assert text in error
    assert "\n" not in error
    assert not re.search("[A-Z]+_[A-Z]+|/tmp", error), "a sender learns no variable and no path"
    assert rows(database, events) == []


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/hooks/nobody", "POST", 404), ("/hooks/", "POST", 404), ("/", "GET", 404), ("/hooks/shop", "GET", 405)],
)
def test_a_wrong_address_or_method_is_answered_with_json(web: FlaskClient, path: str, method: str, status: int) -> None:
    answer = web.open(path, method=method)
    assert answer.status_code == status
    assert error_of(answer)


@pytest.mark.parametrize(
    "path",
    ["//hooks/open", "///hooks//open", "/hooks//open", "/hooks/open/", "/hooks/open//", "/Hooks/open", "/hooks/Open"],
)
def test_a_webhook_finds_its_source_however_its_address_is_written(web: FlaskClient, path: str) -> None:
    # The client would read //hooks as a host.
    assert web.post("/", environ_overrides={"PATH_INFO": path}, data=b'{"type": "x", "id": 1}').status_code == 202


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/hooks/shpo", "unknown source, or something follows the name in its address; did you mean 'shop'?"),
        ("/hooks/shop/more", "unknown source, or something follows the name in its address; it is /hooks/shop"),
        ("/hooks/nobody-here", "unknown source, or something follows the name in its address"),
        *((path, "another address than /hooks/<source>") for path in ("/hooks", "/hooks/", "/webhooks/shop", "/")),
    ],
)
def test_a_webhook_for_no_source_is_logged_with_a_hint(
    web: FlaskClient, caplog: pytest.LogCaptureFixture, path: str, line: str
) -> None:
    caplog.set_level(logging.INFO)
    assert [web.post(path, data=b"{}").status_code for _ in range(9)] == [404] * 9
    assert [text.endswith(line) or f"{line};" in text for text in caplog.messages] == [True] * 5
    assert web.get(path).status_code == 404


@pytest.mark.parametrize("source", ["shop", "open", "token", "unset"])
def test_a_request_that_looks_for_the_address_finds_it_and_another_method_is_refused_aloud(
    web: FlaskClient, database: Database, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    answer = web.head(f"/hooks/{source}")
    assert (answer.status_code, answer.data, "Content-Type" in answer.headers) == (200, b"", False)
    answer = web.get(f"/hooks/{source}?id=1&type=x")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "HEAD, POST")
    (line,) = caplog.messages
    assert line.startswith(f"source {source}: a request with GET was refused: webhooks are sent with POST")
    assert rows(database, events) == []


@pytest.mark.parametrize("source", ["unset", "crooked"])
def test_a_source_without_a_secret_or_with_a_broken_file_is_closed_and_no_other(web: FlaskClient, source: str) -> None:
    answer = post(web, {}, source)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert post(web, paid()).status_code == 202


def test_an_unexpected_error_is_503_and_the_log_holds_its_place_but_no_value(
    environ: dict[str, str], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_clock() -> float:
        raise ValueError("4711")

    answer = post(create_app(environ, database=database, clock=broken_clock).test_client(), paid())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    assert answer.json == {"error": "an error of the gateway's own; send the webhook again later"}
    (line,) = caplog.messages
    assert line.startswith(f"unexpected ValueError at {__file__}:")
    assert "4711" not in line


def test_a_database_that_cannot_be_reached_is_503_with_retry_after(make_app: MakeApp, environ: dict[str, str]) -> None:
    environ["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/none"
    web = make_app(environ).test_client()
    answer = post(web, paid())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json == {"error": "the webhook could not be recorded; send it again later"}
    assert web.get("/readyz").status_code == 503
    assert web.get("/healthz").status_code == 200


def test_a_database_that_is_not_migrated_is_503_and_readyz_says_why(
    make_app: MakeApp, environ: dict[str, str], tmp_path: Path
) -> None:
    environ["DATABASE_URL"] = f"sqlite:///{tmp_path}/new.db"
    web = make_app(environ).test_client()
    assert post(web, paid()).status_code == 503
    answer = web.get("/readyz").json
    assert answer is not None
    assert "gateway migrate" in answer["error"]


def test_a_locked_database_is_503_within_three_seconds_and_nothing_is_lost(
    web: FlaskClient, database: Database
) -> None:
    with database.transaction() as connection:
        if database.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        answer = post(web, paid())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        if database.engine.dialect.name == "postgresql":  # on SQLite, it would wait for this thread's own lock
            assert web.get("/readyz").json == {"ok": False, "error": "the database does not take writes"}
    # The first write may still have succeeded; the sender cannot know, and the repeat is harmless.
    assert post(web, paid()).status_code in (200, 202)
    assert len(rows(database, events)) == 1
    assert web.get("/readyz").status_code == 200


def test_a_server_that_only_reads_is_not_ready(web: FlaskClient, database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        return  # there only the disk and the file's owner decide
    with database.transaction() as connection:
        name = database.engine.url.database
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    database.engine.dispose()
    assert web.get("/readyz").json == {"ok": False, "error": "the database does not answer"}


def test_a_process_whose_last_write_failed_is_not_ready_until_one_succeeds(
    web: FlaskClient, database: Database
) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE events RENAME TO away")
    assert post(web, paid()).status_code == 503
    assert web.get("/readyz").json == {"ok": False, "error": "the database does not take writes"}
    with database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO events")
    assert post(web, paid()).status_code == 202
    assert web.get("/readyz").status_code == 200


def test_webhooks_at_the_same_time_each_get_their_own_answer(
    make_app: MakeApp, environ: dict[str, str], database: Database, store: Store
) -> None:
    app = make_app(environ, database)
    answers: list[Any] = []

    def send(sender: int) -> None:
        web = app.test_client()
        answers.extend(post(web, paid(key=f"{sender}-{n}", id=f"{sender}-{n}")).json for n in range(10))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer["event"] for answer in answers}) == 80
    assert store.counts() == {"events": {"accepted": 80}, "deliveries": {"pending": 1, "parked": 159}}


def test_a_ready_gateway_says_so(web: FlaskClient) -> None:
    assert web.get("/readyz").json == {"ok": True}
