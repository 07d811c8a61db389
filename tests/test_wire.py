"""Each call's exact request, and the limits that a request has to keep."""

from __future__ import annotations

import pytest

from gateway.calls import Address, Call, Destroy, Identify, Page, Track, address, as_json, from_json, lane
from gateway.wire import HttpRequest, request, violations

ULID = "01JGQ3XK00ABCDEFGHJKMNPQRS"


@pytest.mark.parametrize(
    ("call", "method", "path", "body"),
    [
        (Identify(id="42"), "PUT", "/api/v1/customers/42", b"{}"),
        (
            Identify(
                id="42", email="ann@example.com", attributes={"plan": "pro", "a.b": 1}, timestamp=1767225600
            ),
            "PUT",
            "/api/v1/customers/42",
            b'{"email":"ann@example.com","plan":"pro","a.b":1,"_timestamp":1767225600}',
        ),
        (
            Identify(id="42", email="ann@example.com", attributes={"email": "new@example.com"}),
            "PUT",
            "/api/v1/customers/42",
            b'{"email":"new@example.com"}',
        ),
        (Identify(email="Ann@Example.com"), "PUT", "/api/v1/customers/Ann%40Example.com", b"{}"),
        (Identify(cio_id="a3000001", id="42"), "PUT", "/api/v1/customers/cio_a3000001", b"{}"),
        (
            Track(
                id="42", name="Order Päid", attributes={"total": 49.5}, timestamp=1767225600, event_id=ULID
            ),
            "POST",
            "/api/v1/customers/42/events",
            '{"name":"Order Päid","type":"event","id":"01JGQ3XK00ABCDEFGHJKMNPQRS","timestamp":1767225600,'
            '"data":{"total":49.5}}'.encode(),
        ),
        (
            Track(anonymous_id="a/1", name="Seen"),
            "POST",
            "/api/v1/events",
            b'{"name":"Seen","type":"event","data":{},"anonymous_id":"a/1"}',
        ),
        (
            Page(id="42", url="https://example.com/?a=1", timestamp=1767225600),
            "POST",
            "/api/v1/customers/42/events",
            b'{"name":"https://example.com/?a=1","type":"page","timestamp":1767225600,"data":{}}',
        ),
        (Destroy(id="42"), "DELETE", "/api/v1/customers/42", None),
        (Destroy(email="ann@example.com"), "DELETE", "/api/v1/customers/ann%40example.com", None),
    ],
)
def test_each_call_has_one_exact_request(call: Call, method: str, path: str, body: bytes | None) -> None:
    assert request(call) == HttpRequest(method=method, path=path, body=body)


@pytest.mark.parametrize(
    ("identifier", "segment"),
    [
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("a+b", "a%2Bb"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("jürgen", "j%C3%BCrgen"),
        ("a?b#c", "a%3Fb%23c"),
        ("a/../b", "a%2F..%2Fb"),
        ("cio_a3000001", "cio_a3000001"),
        ("x" * 150, "x" * 150),
        ("\x00\n", "%00%0A"),
    ],
)
def test_an_identifier_is_one_segment_of_the_path(identifier: str, segment: str) -> None:
    assert request(Destroy(id=identifier)).path == f"/api/v1/customers/{segment}"
    assert violations(Destroy(id=identifier)) == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Destroy(id="42"), Address(kind="id", value="42")),
        (Destroy(id="ann@example.com"), Address(kind="email", value="ann@example.com")),
        (Destroy(id="cio_a3"), Address(kind="cio_id", value="a3")),
        (Destroy(email="not an email"), Address(kind="id", value="not an email")),
        (Destroy(cio_id="cio_a3", id="42"), Address(kind="cio_id", value="a3")),
        (Destroy(id="42", email="ann@example.com"), Address(kind="id", value="42")),
        (Destroy(id="", email="ann@example.com"), Address(kind="email", value="ann@example.com")),
        (Track(anonymous_id="a", name="x"), Address(kind="anonymous_id", value="a")),
        (Track(anonymous_id="a", id="42", name="x"), Address(kind="id", value="42")),
        (Destroy(), None),
    ],
)
def test_the_address_is_the_first_identifier_read_as_customerio_reads_a_path(
    call: Call, expected: Address | None
) -> None:
    assert address(call) == expected


def test_emails_share_a_lane_whatever_their_case_and_ids_do_not() -> None:
    def lane_of(call: Call, connection: str = "default") -> int:
        whom = address(call)
        assert whom is not None
        return lane(connection, whom)

    assert lane_of(Destroy(email="Ann@Example.com")) == lane_of(Destroy(id="ann@example.com"))
    assert lane_of(Destroy(id="Ann")) != lane_of(Destroy(id="ann"))
    assert lane_of(Destroy(id="ann")) != lane_of(Destroy(id="ann"), connection="eu-prod")
    assert -(2**63) <= lane_of(Destroy(id="ann")) < 2**63


def test_a_call_is_read_back_as_it_was_written() -> None:
    for call in (
        Identify(id="42", attributes={"a": [1, {"b": None}]}, timestamp=1767225600),
        Track(anonymous_id="a", name="x", event_id=ULID),
        Page(email="a@b.c", url="*"),
        Destroy(cio_id="a3"),
    ):
        assert from_json(as_json(call)) == call


def fields(call: Call) -> list[str]:
    return [violation.field for violation in violations(call)]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Destroy(id="."), ["id"]),
        (Destroy(email=".."), ["email"]),
        (Track(anonymous_id="..", name="x"), []),
        (Destroy(id="x" * 151), ["id"]),
        (Destroy(id="é" * 75), []),
        (Destroy(id="é" * 76), ["id"]),
        (Identify(id="1", attributes={"n" * 151: 1}), ["attributes"]),
        (Identify(id="1", attributes={" ": 1}), ["attributes"]),
        (Destroy(id=" "), ["id"]),
        (Identify(id="1", attributes={"_timestamp": 1_767_225_600_000}), ["attributes._timestamp"]),
        (Identify(id="1", attributes={"_timestamp": 1_767_225_600, "_update": True}), []),
        (Identify(id="1", attributes={"_update": "true"}), ["attributes._update"]),
        (Track(id="1", name="n", attributes={"a": 10**5000}), ["attributes"]),
        (Identify(id="1", attributes={"n": "v" * 1001}), ["attributes.n"]),
        (Identify(id="1", attributes={"n": "v" * 1000}), []),
        (Identify(id="1", attributes={f"n{i}": 1 for i in range(301)}), ["attributes"]),
        (Track(id="1", name=" "), ["name"]),
        (Track(id="1", name="n" * 101), ["name"]),
        (Track(id="1", name="n", attributes={"a": "v" * 100_000}), ["attributes"]),
        (Track(id="1", name="n", attributes={"a": "v" * 99_000}), []),
        (Track(id="..", name=""), ["id", "name"]),
        (Track(id="1", name="\ud800"), ["name"]),
        (Track(id="1", name="n", attributes={"a": float("inf")}), ["attributes"]),
        (Page(id="1", url="example.com"), ["url"]),
        (Page(id="1", url="*"), []),
    ],
)
def test_what_customerio_would_refuse_or_drop_is_found_before(call: Call, expected: list[str]) -> None:
    assert fields(call) == expected


def test_a_violation_never_shows_the_value() -> None:
    canary = "canary" * 100
    found = violations(Track(id=canary, name=canary, attributes={"a": canary * 200}))
    assert len(found) == 3
    assert not any("canary" in violation.problem for violation in found)
