"""Proofs, handshakes and networks: what a request to a source is answered."""

from __future__ import annotations

import base64
import gzip
import hmac
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from werkzeug.test import TestResponse

from gateway.app import create_app
from gateway.receive.large_bodies import LARGE_BODY, MOST_WAITING
from gateway.receive.refusals import EVERY, MOST_LINES, RefusalTable
from gateway.receive.sources import load_sources, secrets_in
from gateway.receive.view import REFUSED, TOO_MANY_LARGE
from gateway.store.database import Database
from gateway.store.tables import events
from gateway.verify import schemes
from tests.support.databases import SQLite, opened
from tests.support.signatures import VECTORS, secrets_of

NOW = 1_700_000_000
SECRET = "s3cret-4711"
PUBLIC = "https://hooks.example.com"
FORM = "application/x-www-form-urlencoded"


class Gateway:
    """The application with sources that have one scheme each, and a clock that stands still."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.database = database
        self.directory = directory / "mappings"
        self.directory.mkdir()
        self.environ = {
            "DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
            "GATEWAY_MAPPINGS": str(self.directory),
            "GATEWAY_PUBLIC_URL": PUBLIC,
        }
        self.now: float = NOW
        self._apps: dict[str, Flask] = {}

    def add(self, source: str, verify: str, key: str = "event_key: none, ", **environ: str) -> None:
        text = f"{{version: 1, source: {source}, verify: {verify}, {key}events: {{}}}}"
        (self.directory / f"{source}.yaml").write_text(text, encoding="utf-8")
        self.environ |= environ

    def scheme(self, name: str, secret: str = SECRET, more: str = "", key: str = "event_key: none, ") -> None:
        """Add a source with the name of a scheme."""
        variable = f"SECRET_OF_{name.upper()}"
        verify = f"{{scheme: {name}, secret_env: {variable}{more}}}"
        self.add(name.replace("_", "-"), verify, key, **{variable: secret})

    def shipped(self, name: str, secret: str = SECRET) -> None:
        """Add a source with the name of a scheme, whose mapping leaves the event key to the scheme."""
        self.scheme(name, secret, key="")

    def client(self, public_url: str = PUBLIC) -> FlaskClient:
        """Return a client of the application at a public address."""
        if public_url not in self._apps:
            environ = self.environ | {"GATEWAY_PUBLIC_URL": public_url}
            self._apps[public_url] = create_app(environ, database=self.database, clock=lambda: self.now)
        return self._apps[public_url].test_client()

    def send(self, source: str, method: str = "POST", body: bytes = b"", path: str = "", **more: Any) -> TestResponse:
        return self.client().open(f"/hooks/{source}{path}", method=method, data=body, **more)

    def events(self) -> list[Any]:
        with self.database.engine.connect() as connection:
            return list(connection.execute(select(events).order_by(events.c.id)))

    def close(self) -> None:
        for app in self._apps.values():
            app.extensions["recorder"].close()
            app.extensions["refusals"].close()
            app.extensions["repeats"].close()


@pytest.fixture
def gateway(sqlite: SQLite, tmp_path: Path) -> Iterator[Gateway]:
    with opened(sqlite.migrated(tmp_path)) as database:
        gateway = Gateway(tmp_path, database)
        yield gateway
        gateway.close()


def signature(text: bytes, secret: str = SECRET, algorithm: str = "sha256") -> str:
    return hmac.new(secret.encode(), text, algorithm).hexdigest()


def base64_signature(text: bytes, secret: str = SECRET, algorithm: str = "sha256") -> str:
    return base64.b64encode(hmac.new(secret.encode(), text, algorithm).digest()).decode()


def slack(body: bytes, at: int = NOW, secret: str = SECRET) -> dict[str, str]:
    signed = signature(f"v0:{at}:".encode() + body, secret)
    return {"X-Slack-Signature": f"v0={signed}", "X-Slack-Request-Timestamp": str(at)}


def vector(name: str) -> dict[str, Any]:
    return next(vector for vector in VECTORS if vector["id"] == name)


# Known answers, through the application


def test_known_answers_are_accepted_or_refused_at_the_address_they_were_sent_to(gateway: Gateway) -> None:
    for number, vector in enumerate(VECTORS):
        gateway.add(
            f"v{number}",
            f"{{scheme: {vector['scheme']}, secret_env: SECRET_{number}}}",
            **{f"SECRET_{number}": "\n".join(secrets_of(vector))},
        )
    refused = set()
    for number, vector in enumerate(VECTORS):
        parts = urlsplit(vector["url"])
        gateway.now = vector["now"] or 0
        answer = gateway.client(f"{parts.scheme}://{parts.netloc}").open(
            f"/hooks/v{number}?{parts.query}",
            method=vector["method"],
            data=vector["body"].encode(),
            headers=vector["headers"],
            environ_overrides={"RAW_URI": parts.path + (f"?{parts.query}" if parts.query else "")},
        )
        assert answer.status_code in (200, 202, 204, 400, 401, 405)
        assert "answer" not in vector or answer.text == vector["answer"]
        if answer.status_code == 401:
            refused.add(vector["id"])
    assert refused == {vector["id"] for vector in VECTORS if not vector["valid"]}


REQUESTS = st.dictionaries(
    st.sampled_from(
        sorted(
            {name for scheme in schemes().values() for name in (*scheme.header, *sum(scheme.delivery_id, ()))}
            | {"Content-Type", "Content-Encoding", "X-Slack-Request-Timestamp", "webhook-timestamp"}
        )
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
    | st.sampled_from([FORM, "application/json", "gzip", "v0=00", "sha256=00", "t=1700000000,v1=00", "x" * 16_384]),
    max_size=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([name for name, scheme in schemes().items() if scheme.header or scheme.at]),
    method=st.sampled_from(["POST", "POST", "POST", "GET", "HEAD", "OPTIONS", "PUT"]),
    headers=REQUESTS,
    query=st.text(max_size=30),
    body=st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"type":"url_verification"}', b"a=1&b=%", b"\xff"]),
)
def test_no_request_causes_an_unexpected_error(
    shared: Gateway, name: str, method: str, headers: dict[str, str], query: str, body: bytes
) -> None:
    before = len(shared.events())
    query_string = {"token": query, "challenge": query}
    answer = shared.send(name.replace("_", "-"), method, body, headers=headers, query_string=query_string)

    assert answer.status_code < 500
    if name not in ("dropbox",) and method == "POST":
        assert answer.status_code in (200, 400, 401, 413, 415, 431)
        assert len(shared.events()) == before


PUBLIC_KEYS: dict[str, str] = {
    "discord": "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "standard_v1a": "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
    "sendgrid": vector("sendgrid-valid")["secret"],
    "airtable": "c2VjcmV0LWtleQ==",
    "adyen": "44782DEF547AAA06",
    "adyen_header": "44782DEF547AAA06",
}


def secret_for(name: str) -> str:
    scheme = schemes()[name]
    if name in PUBLIC_KEYS:
        return PUBLIC_KEYS[name]
    if scheme.secret.encoding == "base64":
        return "whsec_" + base64.b64encode(b"k" * 24).decode()
    if name == "zoom":
        return f"older\n{SECRET}"
    return f"user:{SECRET}" if scheme.kind in ("basic", "braintree") else SECRET


@pytest.fixture(scope="module")
def shared(sqlite: SQLite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """All schemes of the table at once."""
    directory = tmp_path_factory.mktemp("all")
    with opened(sqlite.migrated(directory)) as database:
        gateway = Gateway(directory, database)
        for name, scheme in schemes().items():
            if scheme.header or scheme.at or scheme.kind in ("adyen", "braintree"):
                gateway.scheme(name, secret_for(name), ", verify_token_env: VERIFY" if scheme.asks_token else "")
        gateway.environ["VERIFY"] = "v-token"
        gateway.client()
        yield gateway
        gateway.close()


def test_every_scheme_of_the_table_can_be_configured(shared: Gateway) -> None:
    closed = {name: source.closed for name, source in load_sources(shared.directory, shared.environ).items()}
    assert set(closed.values()) == {None}, closed


# What the sender and the operator learn


def refusals_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "refused" in record.getMessage()]


def test_a_sender_learns_nothing_of_the_reason_and_the_operator_a_likely_cause(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.scheme("slack")
    body = b'{"type": "event_callback"}'

    answer = gateway.send("slack", body=body + b"\n", headers=slack(body))
    assert (answer.status_code, answer.data) == (401, b"")  # Slack prescribes the text of responses
    (line,) = refusals_in(caplog)
    assert "no signature in the header X-Slack-Signature" in line
    assert "right for the body without the white space around it" in line

    assert gateway.send("slack", body=body).status_code == 401
    ((source, refusal),) = RefusalTable(gateway.database).read().items()
    assert (source, refusal.times) == ("slack", 1)  # the second is stored together with the next
    assert "without the white space" in refusal.problem
    assert SECRET not in refusal.problem


def test_a_flood_of_refusals_is_counted_and_stored_once_in_a_while(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.scheme("github")
    for _ in range(50):
        assert gateway.send("github", body=b"{}").json == {"error": REFUSED}
    gateway.now += EVERY + 1
    gateway.send("github", body=b"{}", headers={"X-Hub-Signature-256": f"sha256={'00' * 32}"})

    (refusal,) = RefusalTable(gateway.database).read().values()
    assert refusal.times == 51
    assert refusal.problem.startswith("no signature in the header X-Hub-Signature-256")
    lines = refusals_in(caplog)
    assert len(lines) == 1 + MOST_LINES + 1
    assert lines[-1].endswith("(the last of 50 since the previous report)")
    assert gateway.events() == []


def test_a_refusal_is_answered_even_if_the_database_cannot_store_it(gateway: Gateway) -> None:
    gateway.scheme("github")
    with gateway.database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE refusals")
    assert gateway.send("github", body=b"{}").status_code == 401


# Secrets


def test_a_variable_may_hold_an_old_and_a_new_secret(gateway: Gateway) -> None:
    gateway.scheme("slack", f"new-secret\n{SECRET}\n")
    gateway.add("both", "{scheme: slack, secret_env: [NEW, OLD]}", NEW="new-secret", OLD=SECRET)
    body = b'{"type": "event_callback"}'
    statuses = {SECRET: 200, "new-secret": 200, "other": 401, f"new-secret\n{SECRET}": 401}

    for source in ("slack", "both"):
        for secret, status in statuses.items():
            assert gateway.send(source, body=body, headers=slack(body, secret=secret)).status_code == status


@pytest.mark.parametrize(
    ("value", "secrets"),
    [
        *[("", []), ("\n", []), ("a", ["a"]), ("a\n", ["a"]), ("a\r\nb", ["a", "b"])],
        *[("a b, c", ["a b, c"]), (" a", [" a"]), ("a\x85b\u2028c", ["a\x85b\u2028c"])],
        *[("a\r", ["a"]), ('"a"', ["a"]), ("'a'\n\"b\"\n", ["a", "b"]), ('""a""', ['"a"']), ('""', [])],
        *[("\"a'", ["\"a'"]), ('a"', ['a"']), ('"', ['"'])],
    ],
)
def test_each_line_of_a_variable_is_a_secret(value: str, secrets: list[str]) -> None:
    assert secrets_in(value) == secrets


@pytest.mark.parametrize("value", ["", "\n", "good\n bad", "good\n\tbad"])
def test_a_source_stays_closed_until_all_its_secrets_are_usable(gateway: Gateway, value: str) -> None:
    gateway.scheme("slack", value)
    gateway.scheme("github")
    body = b"{}"

    answer = gateway.send("slack", body=body, headers=slack(body))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
    headers = {"X-Hub-Signature-256": f"sha256={signature(body)}"}
    assert gateway.send("github", body=body, headers=headers).status_code == 202


def test_a_source_whose_sender_signs_the_address_is_closed_until_the_address_is_set(gateway: Gateway) -> None:
    gateway.scheme("square")
    gateway.scheme("twilio")
    del gateway.environ["GATEWAY_PUBLIC_URL"]
    sources = load_sources(gateway.directory, gateway.environ)
    assert all("GATEWAY_PUBLIC_URL is not set" in (sources[name].closed or "") for name in ("square", "twilio"))


def test_the_host_header_does_not_change_the_address_that_is_signed(gateway: Gateway) -> None:
    gateway.scheme("square")
    body = b'{"event_id": "1"}'
    for url, status in ((f"{PUBLIC}/hooks/square", 202), ("https://evil.example.com/hooks/square", 401)):
        headers = {
            "x-square-hmacsha256-signature": base64_signature(url.encode() + body),
            "Host": "evil.example.com",
            "X-Forwarded-Host": "evil.example.com",
        }
        assert gateway.send("square", body=body, headers=headers).status_code == status


def test_a_secret_in_the_address_opens_the_source_and_is_stored_and_logged_nowhere(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("path", "query", "github"):
        gateway.scheme(name)

    assert gateway.send(f"path/{SECRET}", body=b"{}").status_code == 202
    assert gateway.send(f"query?token={SECRET}&shop=1", body=b"{}").status_code == 202
    forwarded = {"X-Original-URL": f"/hooks/path/{quote(SECRET)}"}
    assert gateway.send(f"path/{SECRET}", body=b"[]", headers=forwarded).status_code == 202
    spelled = "".join(f"%{ord(character):02x}" for character in SECRET)
    inside = {"Referer": f"https://example.com/?from={quote(f'https://example.com/{spelled}', safe='')}"}
    assert gateway.send(f"path/{SECRET}", body=b"[1]", headers=inside).status_code == 202
    for wrong in ("path", "path/", "path/x", f"path/{SECRET}/x", "query", "query?token=", f"query/{SECRET}"):
        assert gateway.send(wrong, body=b"{}").status_code in (401, 404), wrong
    assert gateway.send(f"github/{SECRET}", body=b"{}").status_code == 404
    first, second, third, fourth = gateway.events()
    assert json.loads(third.headers)["x-original-url"] == "[redacted]"
    assert json.loads(fourth.headers)["referer"] == "[redacted]"
    assert json.loads(first.query) == {}
    assert json.loads(second.query) == {"token": "[redacted]", "shop": "1"}
    assert SECRET not in caplog.text
    assert SECRET not in str(RefusalTable(gateway.database).read())


# What a scheme says about events


def test_the_event_key_and_type_come_from_the_scheme(gateway: Gateway) -> None:
    gateway.shipped("stripe")

    def send(body: bytes, at: int) -> TestResponse:
        signed = signature(f"{at}.".encode() + body)
        return gateway.send("stripe", body=body, headers={"Stripe-Signature": f"t={at},v1={signed}"})

    first, again, other = b'{"id": "evt_1", "type": "a.b"}', b'{"type": "a.b",  "id": "evt_1"}', b'{"id": "evt_2"}'
    assert send(first, NOW).json == {"event": 1, "calls": 0}
    assert send(again, NOW + 9).json == {"event": 1, "duplicate": True}
    assert send(other, NOW).status_code == 202
    assert [row.event_type for row in gateway.events()] == ["a.b", None]


def test_a_mailgun_token_is_accepted_once_whatever_the_rest_of_the_body_is(gateway: Gateway) -> None:
    gateway.shipped("mailgun")

    def send(event: str) -> Any:
        proof = {"timestamp": str(NOW), "token": "t1", "signature": signature(f"{NOW}t1".encode())}
        return gateway.send("mailgun", body=json.dumps({"signature": proof, "event-data": {"event": event}}).encode())

    assert send("opened").status_code == 200  # the only status that Mailgun accepts
    assert send("complained").json == {"event": 1, "duplicate": True}
    assert len(gateway.events()) == 1


def test_a_content_type_that_is_not_signed_does_not_change_how_a_body_is_decoded(gateway: Gateway) -> None:
    gateway.scheme("linear")
    body = json.dumps({"type": "Issue", "webhookTimestamp": NOW * 1000}).encode()
    headers = {"Linear-Signature": signature(body), "Content-Type": FORM}

    assert gateway.send("linear", body=body, headers=headers).status_code == 200
    (event,) = gateway.events()
    assert json.loads(event.headers)["content-type"] == "application/json"


# Handshakes

PLAIN, JSON = "text/plain; charset=utf-8", "application/json"
CHALLENGE = b'{"type": "url_verification", "challenge": "c1"}'
LARGE_CHALLENGE = json.dumps({"type": "url_verification", "challenge": "c1", "more": "x" * 20_000}).encode()
SUBSCRIBE = {"hub.mode": "subscribe", "hub.challenge": "<b>1158</b>", "hub.verify_token": "v-token"}
VALIDATION = b'{"event": "endpoint.url_validation", "payload": {"plainToken": "p1"}}'
NO_EVENTS, EVENTS = b'{"events":[],"firstEventSequence":0}', b'{"events":[{"resourceId":"r"}]}'
CLIENT_STATE = json.dumps({"value": [{"clientState": SECRET}]}).encode()
PING = b"webhook_id=4"
ZOOM_ANSWER = json.dumps({"plainToken": "p1", "encryptedToken": signature(b"p1")})
FRONT = b'{"type": "sync"}'
HOOK, HOOK_ANSWER = b'{"challenge": "c1", "webhookId": 1}', '{"smartsheetHookResponse": "c1"}'
PROOFS: list[dict[str, str]] = [{}, {"Smartsheet_Hmac_SHA256": signature(HOOK)}]


def ask(
    method: str = "POST", body: bytes = b"", path: str = "", query: object = None, **headers: str
) -> dict[str, Any]:
    """A request to a source; underscores in the names of headers are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"method": method, "body": body, "path": path, "query_string": query, "headers": named}


def challenged(text: str) -> dict[str, Any]:
    return ask("GET", query={"challenge": text})


def zoom(body: bytes) -> dict[str, str]:
    return {
        "x_zm_signature": f"v0={signature(f'v0:{NOW}:'.encode() + body)}",
        "x_zm_request_timestamp": str(NOW),
    }


def front(signed: bytes) -> dict[str, str]:
    return {
        "X_Front_Challenge": "c1",
        "X_Front_Signature": base64_signature(f"{NOW}000:".encode() + signed),
        "X_Front_Request_Timestamp": f"{NOW}000",
    }


@pytest.mark.parametrize(
    ("name", "request_", "status", "text", "content_type"),
    [
        ("slack", ask(body=CHALLENGE, **slack(CHALLENGE)), 200, "c1", PLAIN),
        ("slack", ask(body=CHALLENGE), 401, "", None),
        ("slack", ask(body=CHALLENGE, **slack(CHALLENGE, at=NOW - 301)), 401, "", None),
        ("slack", ask("GET"), 405, None, JSON),
        ("meta", ask("GET", query=SUBSCRIBE), 200, "<b>1158</b>", PLAIN),
        *[("meta", ask("GET", query=SUBSCRIBE | {"hub.verify_token": bad}), 403, None, JSON) for bad in ("", "v-toke")],
        ("meta", ask("GET", query=SUBSCRIBE | {"hub.verify_token": SECRET}), 403, None, JSON),
        ("meta", ask("GET"), 405, None, JSON),
        ("okta", ask("GET", X_Okta_Verification_Challenge="c1"), 200, '{"verification": "c1"}', JSON),
        ("okta", ask("GET"), 405, None, JSON),
        ("xero", ask(body=NO_EVENTS, x_xero_signature=base64_signature(NO_EVENTS)), 200, "", None),
        ("xero", ask(body=NO_EVENTS, x_xero_signature=base64_signature(b"x")), 401, "", None),
        ("microsoft-graph", ask(query={"validationToken": "Validation: <a> & b"}), 200, "Validation: <a> & b", PLAIN),
        ("microsoft-graph", ask(body=b'{"value": [{}]}'), 401, None, JSON),
        ("dropbox", challenged("c1"), 200, "c1", PLAIN),
        *[("dropbox", challenged(bad), 400, None, JSON) for bad in ("x" * 5_000, "a\r\nb")],
        ("nylas", challenged("c1"), 200, "c1", PLAIN),
        ("nylas", ask("GET"), 405, None, JSON),
        ("monday", ask(body=b'{"challenge": "c1"}', path=f"/{SECRET}"), 200, '{"challenge": "c1"}', JSON),
        ("monday", ask(body=b'{"challenge": "c1"}', path="/other"), 401, None, JSON),
        ("strava", ask("GET", path=f"/{SECRET}", query=SUBSCRIBE), 200, '{"hub.challenge": "<b>1158</b>"}', JSON),
        ("strava", ask("GET", path=f"/{SECRET}", query=SUBSCRIBE | {"hub.verify_token": "v"}), 403, None, JSON),
        ("strava", ask("GET", path="/other", query=SUBSCRIBE), 401, None, JSON),
        *[
            ("smartsheet", ask(body=HOOK, Smartsheet_Hook_Challenge="c1", **proof), 200, HOOK_ANSWER, JSON)
            for proof in PROOFS
        ],
        ("smartsheet", ask(body=HOOK, Smartsheet_Hook_Challenge="c1", Smartsheet_Hmac_SHA256="00"), 401, None, JSON),
        *[(name, ask("HEAD"), 200, "", None) for name in ("trello", "mandrill", "intercom")],
        *[(name, ask("GET"), 405, None, JSON) for name in ("trello", "mandrill", "intercom")],
        ("mailchimp", ask("GET", path=f"/{SECRET}"), 200, None, None),
        ("mailchimp", ask("GET", path="/other"), 401, None, JSON),
        ("woocommerce", ask(body=PING, Content_Type=FORM), 200, "", None),
        ("woocommerce", ask(body=b'{"webhook_id": 4}', Content_Type=JSON), 401, None, JSON),
        ("front", ask(body=FRONT, X_Front_Challenge="c1"), 200, "c1", PLAIN),
        ("front", ask(body=FRONT, **front(FRONT)), 200, "c1", PLAIN),
        ("front", ask(body=FRONT, **front(b"")), 401, None, JSON),
        ("zoom", ask(body=VALIDATION, **zoom(VALIDATION)), 200, ZOOM_ANSWER, JSON),
        ("zoom", ask(body=VALIDATION), 401, None, JSON),
    ],
)
def test_a_handshake_is_answered_as_its_sender_expects_and_records_nothing(
    shared: Gateway, name: str, request_: dict[str, Any], status: int, text: str | None, content_type: str | None
) -> None:
    before = len(shared.events())
    answer = shared.send(name, **request_)
    assert (answer.status_code, answer.headers.get("Content-Type")) == (status, content_type)
    assert text is None or answer.text == text
    assert content_type != PLAIN or answer.headers["X-Content-Type-Options"] == "nosniff"
    assert len(shared.events()) == before


@pytest.mark.parametrize(
    ("name", "request_", "status", "text"),
    [
        ("slack", ask(body=LARGE_CHALLENGE, **slack(LARGE_CHALLENGE)), 200, ""),
        ("xero", ask(body=EVENTS, x_xero_signature=base64_signature(EVENTS)), 200, ""),
        ("microsoft-graph", ask(body=CLIENT_STATE), 202, None),
        ("mailchimp", ask(body=b"type=subscribe&data[email]=a%40example.com", path=f"/{SECRET}"), 202, None),
        ("woocommerce", ask(body=PING, Content_Type=FORM, X_WC_Webhook_Signature=base64_signature(PING)), 202, None),
    ],
)
def test_a_webhook_is_not_mistaken_for_a_handshake(
    shared: Gateway, name: str, request_: dict[str, Any], status: int, text: str | None
) -> None:
    before = len(shared.events())
    answer = shared.send(name, **request_)
    assert answer.status_code == status
    assert text is None or answer.text == text
    assert len(shared.events()) == before + 1


def test_a_mapping_writes_the_handshakes_of_its_own_scheme(gateway: Gateway) -> None:
    handshakes = (
        "[{method: GET, when: {query.hub.mode: subscribe}, token: query.t, json: {hub.challenge: query.c, ok: true}},"
        " {method: POST, when: {body.challenge: any, body.event: absent}, signed: true, text: mac(body.challenge)},"
        " {method: POST, when: {header.X-Hook-Challenge: any}, headers: {X-Hook-Response: header.X-Hook-Challenge}},"
        " {method: OPTIONS, headers: {X-Hook-Response: query.c}}]"
    )
    scheme = f"{{kind: hmac, header: X-Sig, handshakes: {handshakes}}}"
    gateway.add("own", f"{{scheme: {scheme}, secret_env: S, verify_token_env: T}}", S=SECRET, T="v-token")

    asked = {"hub.mode": "subscribe", "c": "c1", "t": "v-token"}
    assert gateway.send("own", "GET", query_string=asked).json == {"hub.challenge": "c1", "ok": True}
    assert gateway.send("own", "GET", query_string=asked | {"t": "x"}).status_code == 403
    assert gateway.send("own", headers={"X-Hook-Challenge": "c1"}).headers["X-Hook-Response"] == "c1"
    assert gateway.send("own", "OPTIONS", query_string={"c": "\N{LATIN SMALL LETTER Z WITH CARON}"}).status_code == 400
    body = b'{"challenge": "c1"}'
    assert gateway.send("own", body=body, headers={"X-Sig": signature(body)}).text == signature(b"c1")
    assert gateway.send("own", body=body).status_code == 401
    event = b'{"challenge": "c1", "event": 1}'
    assert gateway.send("own", body=event, headers={"X-Sig": signature(event)}).status_code == 202
    assert len(gateway.events()) == 1


def test_without_a_verify_token_in_the_mapping_none_is_accepted(gateway: Gateway) -> None:
    gateway.scheme("meta")
    assert gateway.send("meta", "GET", query_string=SUBSCRIBE | {"hub.verify_token": ""}).status_code == 403


@pytest.mark.parametrize("secret", ["", SECRET])
def test_asana_gets_its_secret_back_and_a_strangers_secret_proves_nothing(gateway: Gateway, secret: str) -> None:
    gateway.scheme("asana", secret)

    answer = gateway.send("asana", headers={"X-Hook-Secret": "from-a-stranger"})
    assert (answer.status_code, answer.headers["X-Hook-Secret"]) == (200, "from-a-stranger")
    body = b'{"events": []}'
    forged = {"X-Hook-Signature": signature(body, "from-a-stranger")}
    assert gateway.send("asana", body=body, headers=forged).status_code == (401 if secret else 503)
    both = forged | {"X-Hook-Secret": "from-a-stranger"}
    assert "X-Hook-Secret" not in gateway.send("asana", body=body, headers=both).headers


def test_the_operator_sees_the_token_of_notion_while_no_secret_is_set(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.scheme("notion", "")

    assert gateway.send("notion", body=b'{"verification_token": "secret_tok\\u0007en"}').status_code == 200
    (line,) = [line for line in caplog.messages if "secret_tok\ufffden" in line]
    assert "anybody can have sent it" in line
    assert "sender's own page" in line
    assert gateway.send("notion", body=b'{"id": "1"}').status_code == 503


def test_each_token_of_notion_is_logged_once_and_strangers_cannot_flood_the_log_with_them(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.scheme("notion", "")

    def logged(*numbers: int) -> list[int]:
        caplog.clear()
        for number in numbers:
            body = json.dumps({"verification_token": f"token-{number}."}).encode()
            assert gateway.send("notion", body=body).status_code == 200
        return [number for number in range(1_000) for line in caplog.messages if f"token-{number}." in line]

    assert logged(0, 1, 0, 1, 0) == [0, 1]
    assert logged(*range(1_000)) == [2, 3, 4]
    gateway.now += 11
    assert logged(0, 1, 7, 7) == [7]


def test_the_token_of_notion_is_not_logged_once_a_secret_is_set(
    shared: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    assert shared.send("notion", body=b'{"verification_token": "secret_token"}').status_code == 200
    assert "secret_token" not in caplog.text


def test_cloudevents_may_come_from_any_origin_that_asks(shared: Gateway) -> None:
    answer = shared.send("cloudevents", "OPTIONS", headers={"WebHook-Request-Origin": "eventgrid.example.net"})
    assert (answer.status_code, answer.headers["WebHook-Allowed-Origin"]) == (200, "eventgrid.example.net")


def test_braintree_gets_the_answer_to_its_challenge_and_nothing_else_is_signed(gateway: Gateway) -> None:
    known, sample = vector("braintree-challenge"), vector("braintree-sample")
    assert known["secret"] == sample["secret"]
    gateway.scheme("braintree", known["secret"])

    def challenge(text: str) -> TestResponse:
        return gateway.send("braintree", "GET", query_string={"bt_challenge": text})

    answer = challenge(known["url"].partition("=")[2])
    assert (answer.status_code, answer.headers["Content-Type"], answer.text) == (200, PLAIN, known["answer"])
    for bad in ("bad challenge", "A" * 24, "a" * 19, "a" * 33, "PD94bWw="):
        assert challenge(bad).status_code == 401
    # The answer to a challenge must not prove a webhook.
    forged = urlencode({"bt_payload": "deadbeef" * 4, "bt_signature": challenge("deadbeef" * 4).text}).encode()
    assert gateway.send("braintree", body=forged).status_code == 401
    genuine = sample["body"].encode()
    assert gateway.send("braintree", body=genuine).status_code == 202
    assert gateway.send("braintree", body=genuine + b"&kind=check").status_code == 401


def test_discord_gets_an_answer_to_its_ping_and_not_to_a_forged_one(gateway: Gateway) -> None:
    good, bad = vector("discord"), vector("discord-tampered")
    gateway.scheme("discord", good["secret"])
    gateway.now = good["now"]

    answer = gateway.send("discord", body=good["body"].encode(), headers=good["headers"])
    assert (answer.status_code, answer.json) == (200, {"type": 1})
    assert gateway.send("discord", body=bad["body"].encode(), headers=bad["headers"]).status_code == 401


def test_an_event_of_discord_is_not_mistaken_for_its_ping(gateway: Gateway) -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    gateway.scheme("discord", key.public_key().public_bytes_raw().hex())

    def send(payload: dict[str, Any]) -> TestResponse:
        body = json.dumps(payload).encode()
        signed = key.sign(str(NOW).encode() + body).hex()
        headers = {"X-Signature-Timestamp": str(NOW), "X-Signature-Ed25519": signed}
        return gateway.send("discord", body=body, headers=headers)

    assert send({"version": 1, "type": 1, "event": {"type": "APPLICATION_AUTHORIZED"}}).status_code == 204
    assert send({"version": 1, "type": 0}).status_code == 204
    assert send({"type": 1, "token": "t"}).json == {"type": 1}
    assert [row.event_type for row in gateway.events()] == ["APPLICATION_AUTHORIZED", None]


# Captured webhooks


@pytest.mark.parametrize(
    ("name", "header", "bodies"),
    [
        (
            "mandrill",
            "X-Mandrill-Signature",
            b"mandrill_events=%5B%5D&a=1 a=1&mandrill_events=%5B%5D &mandrill_events=%5b%5D&&%61=1"
            b" a=1&a=1&mandrill_events=%5B%5D",
        ),
        (
            "twilio",
            "X-Twilio-Signature",
            b"MessageSid=SM1&MessageStatus=sent MessageStatus=sent&MessageSid=SM1&MessageSid=SM1"
            b" MessageSid=SM1Me&ssageStatus=sent",
        ),
    ],
)
def test_a_captured_form_is_recorded_once_however_it_is_written(
    gateway: Gateway, name: str, header: str, bodies: bytes
) -> None:
    gateway.shipped(name)
    fields = sorted(unquote_to_bytes(field.replace(b"=", b"", 1)) for field in bodies.split()[0].split(b"&"))
    signed = base64_signature(f"{PUBLIC}/hooks/{name}".encode() + b"".join(fields), algorithm="sha1")

    for body in bodies.split():
        answer = gateway.send(name, body=body, headers={header: signed, "Content-Type": FORM})
        assert answer.status_code in (200, 204)
    assert len(gateway.events()) == 1


def test_a_captured_webhook_of_adyen_is_recorded_once_whatever_is_added_around_what_is_signed(
    gateway: Gateway,
) -> None:
    known = vector("adyen-item")
    gateway.shipped("adyen", known["secret"])
    payload = json.loads(known["body"])
    (item,) = payload["notificationItems"]
    item["NotificationRequestItem"]["paymentMethod"] = "other"

    for body in (known["body"], payload, payload | {"n": 1}, payload | {"notificationItems": [item, item]}):
        text = body if isinstance(body, str) else json.dumps(body)
        assert gateway.send("adyen", body=text.encode()).text == "[accepted]"
    assert len(gateway.events()) == 1


def test_a_retry_of_linear_counts_once_with_its_first_timestamp_and_any_delivery_header(gateway: Gateway) -> None:
    gateway.shipped("linear")
    body = json.dumps({"type": "Issue", "action": "update", "webhookTimestamp": NOW * 1000}).encode()
    statuses = []
    for hours, delivery in ((0, "d1"), (7.02, "d1"), (7.5, "of-a-stranger"), (8.01, "d1")):
        gateway.now = NOW + hours * 3600
        headers = {"Linear-Signature": signature(body), "Linear-Delivery": delivery}
        statuses.append(gateway.send("linear", body=body, headers=headers).status_code)
    assert statuses == [200, 200, 200, 401]
    assert len(gateway.events()) == 1


def test_patreon_tells_events_with_equal_bodies_apart(gateway: Gateway) -> None:
    gateway.shipped("patreon")
    body = b'{"data": {"id": "m1"}}'
    for event, status in (("members:create", 202), ("members:pledge:create", 202), ("members:create", 200)):
        headers = {"X-Patreon-Signature": signature(body, algorithm="md5"), "X-Patreon-Event": event}
        assert gateway.send("patreon", body=body, headers=headers).status_code == status
    assert [event.event_type for event in gateway.events()] == ["members:create", "members:pledge:create"]


def test_a_delivery_of_chargify_cannot_be_used_up_by_a_stranger(gateway: Gateway) -> None:
    gateway.shipped("chargify")

    def send(body: bytes, number: str) -> TestResponse:
        proof = signature(body)
        headers = {"X-Chargify-Webhook-Signature-Hmac-Sha-256": proof, "X-Chargify-Webhook-Id": number}
        return gateway.send("chargify", body=body, headers=headers)

    assert send(b"id=1&event=test", "1").status_code == 202
    assert send(b"id=1&event=test", "2").status_code == 200
    assert send(b"id=2&event=test", "2").status_code == 202


def test_a_large_body_is_not_decoded_before_it_is_proven(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("microsoft_graph", "adyen", "mailgun", "linear"):
        gateway.scheme(name, secret_for(name))
    many = json.dumps({"value": [{"clientState": SECRET}] * 1_001}).encode()
    large = json.dumps({"value": [{"clientState": SECRET, "more": "x" * 140_000}]}).encode()
    assert gateway.send("microsoft-graph", body=many).status_code == 401
    assert gateway.send("microsoft-graph", body=large).status_code == 413
    assert "GATEWAY_MAX_BODY" not in caplog.text  # which is larger
    for name in ("adyen", "mailgun"):
        assert gateway.send(name, body=b"[" * 200_000).status_code == 413
    proven = json.dumps({"webhookTimestamp": NOW * 1000, "more": "x" * 140_000}).encode()
    assert gateway.send("linear", body=proven, headers={"Linear-Signature": signature(proven)}).status_code == 200
    old = proven.replace(str(NOW).encode(), str(NOW - 28_801).encode())
    assert gateway.send("linear", body=old, headers={"Linear-Signature": signature(old)}).status_code == 401


def test_a_form_that_is_packed_tightly_is_refused_before_it_is_read(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.shipped("mandrill")
    events = "[" + ",".join(['{"event": "open", "msg": {"email": "ann@example.com"}}'] * 3_000) + "]"
    form = urlencode({"mandrill_events": events}).encode()
    proof = base64_signature(f"{PUBLIC}/hooks/mandrillmandrill_events{events}".encode(), algorithm="sha1")
    headers = {"X-Mandrill-Signature": proof, "Content-Type": FORM}
    packed = gateway.send("mandrill", body=gzip.compress(form), headers=headers | {"Content-Encoding": "gzip"})
    assert packed.status_code == 413
    assert "once it is unpacked; this scheme would have to decode it" in caplog.text
    assert gateway.events() == []
    assert gateway.send("mandrill", body=form, headers=headers).status_code == 200  # as Mandrill sends it


def test_large_bodies_of_one_source_do_not_queue_up_without_end(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("github", "sentry"):
        gateway.scheme(name)
    body = b"x" * LARGE_BODY
    headers = {"X-Hub-Signature-256": f"sha256={signature(body)}", "Sentry-Hook-Signature": signature(body)}
    bodies = gateway.client().application.extensions["receiver"].large_bodies
    with ExitStack() as waiting:
        for _ in range(MOST_WAITING):
            waiting.enter_context(bodies.queued("github"))
        answer = gateway.send("github", body=body, headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
        assert answer.json == {"error": TOO_MANY_LARGE}
        assert "source github: a webhook was refused: HTTP 503: too many large webhooks" in caplog.text
        small = {"X-Hub-Signature-256": f"sha256={signature(b'{}')}"}
        assert gateway.send("github", body=b"{}", headers=small).status_code == 202
        assert gateway.send("sentry", body=body, headers=headers).status_code == 202
    assert gateway.send("github", body=body, headers=headers).status_code == 202


def test_a_proof_among_large_attachments_is_read(gateway: Gateway) -> None:
    gateway.shipped("mailgun_route")
    fields = {"timestamp": str(NOW), "token": "t1", "signature": signature(f"{NOW}t1".encode()), "event": "opened"}
    form = {**fields, "attachment-1": (BytesIO(b"x" * 500_000), "a.pdf", "application/pdf")}
    assert gateway.client().post("/hooks/mailgun-route", data=form).status_code == 200
    (event,) = gateway.events()
    assert (event.status, event.event_type) == ("ignored", "opened")


def test_a_body_that_cannot_be_read_is_not_told_as_a_wrong_secret(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.scheme("kofi")
    gateway.scheme("github")
    unread = "the body cannot be read, and what proves it is inside: the body is not valid JSON at line 1, column 2"
    packed = "the body's Content-Encoding is not supported; send it plain or as gzip"
    signed = {"X-Hub-Signature-256": f"sha256={signature(b'x')}", "Content-Encoding": "br"}
    answers = [gateway.send("kofi", body=b"{"), gateway.send("github", body=b"y", headers=signed)]
    assert [answer.status_code for answer in answers] == [400, 415]
    assert [answer.json for answer in answers] == [{"error": f"{unread}; it looks cut off"}, {"error": packed}]
    refusals = RefusalTable(gateway.database).read()
    assert refusals["kofi"].problem == f"HTTP 400: {unread}; it looks cut off"
    assert refusals["github"].problem == f"HTTP 415: {packed}"
    assert caplog.messages == [
        f"source kofi: a webhook was refused: HTTP 400: {unread}; it looks cut off",
        f"source github: a webhook was refused: HTTP 415: {packed}",
    ]
    assert gateway.events() == []
    assert gateway.send("github", body=b"x", headers=signed).status_code == 202
    assert [(event.status, event.problem) for event in gateway.events()] == [("failed", packed)]


def test_headers_that_are_too_long_are_refused(gateway: Gateway) -> None:
    gateway.scheme("github")
    headers = {"X-Hub-Signature-256": f"sha256={signature(b'{}')}"}

    assert gateway.send("github", body=b"{}", headers=headers | {"X-Junk": "x" * 60_000}).status_code == 202
    assert gateway.send("github", body=b"{}", headers=headers | {"X-Junk": "x" * 66_000}).status_code == 431


def test_strangers_cannot_flood_the_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    gateway.scheme("dropbox")
    gateway.add("near", "{scheme: none, networks: 192.0.2.0/24}")
    for _ in range(50):
        gateway.send("near", body=b"{}")
        gateway.send("nobody", body=b"{}")
        gateway.send("dropbox", "GET", query_string={"challenge": "c"})
        gateway.send("dropbox", body=b"{}", headers={"Content-Encoding": "br"})
    assert len(caplog.records) < 30


# Networks


def test_webhooks_are_accepted_from_the_networks_of_the_mapping_only(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.add("near", "{scheme: none, networks: [192.0.2.0/24, '2001:db8::/32']}")
    accepted = dict.fromkeys(("192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7"), 202)
    for address, status in (accepted | dict.fromkeys(("192.0.3.7", "", "unix:"), 403)).items():
        environ, headers = {"REMOTE_ADDR": address}, {"X-Forwarded-For": "192.0.2.7"}
        answer = gateway.send("near", body=b"{}", headers=headers, environ_overrides=environ)
        assert answer.status_code == status, address
    assert "192.0.3.7, which is in none of its 'networks'" in caplog.text


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        ("192.0.2.7, 10.0.0.1", 202),
        ("192.0.2.7:4711, 10.0.0.1", 202),
        ("198.51.100.1, 192.0.2.7, 10.0.0.1", 202),
        ("192.0.2.7, 198.51.100.1, 10.0.0.1", 403),
        ("192.0.2.7", 403),
        ("", 403),
        ("x, 10.0.0.1", 403),
    ],
)
def test_behind_proxies_only_the_entries_of_the_proxies_count(gateway: Gateway, forwarded: str, status: int) -> None:
    gateway.add("near", "{scheme: none, networks: 192.0.2.0/24}", GATEWAY_PROXIES="2")

    answer = gateway.send("near", body=b"{}", headers={"X-Forwarded-For": forwarded})
    assert answer.status_code == status
