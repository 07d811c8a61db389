"""Drafts of mappings: the right person is found, and the file is right whatever the payload is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.customerio.calls import as_json
from gateway.event import JSON, Event
from gateway.mapping.compiler import parse
from gateway.mapping.draft import Draft, DraftError, draft, yaml_block
from gateway.mapping.model import Computed, MappingFile
from gateway.mapping.selftests import run_tests
from gateway.mapping.translate import translate
from gateway.mapping.yaml_nodes import plain, read
from gateway.payload import decode


def drafted(body: JSON, headers: dict[str, str] | None = None, source: str = "sender") -> Draft:
    """Draft a mapping, and see that it compiles without a warning and passes its own test."""
    made = draft(source, body, headers or {})
    compiled(made)
    return made


def compiled(made: Draft) -> MappingFile:
    mapping, warnings = parse(made.text, "drafted.yaml")
    (result,) = run_tests(mapping, dict[str, JSON]().__getitem__)
    assert warnings == []
    assert result.difference is None, f"{made.text}\n{result.difference}"
    return mapping


def guesses(made: Draft) -> dict[str, str]:
    """Give the expressions of the defaults, and what routes."""
    mapping = compiled(made)
    found = {
        "event_type": mapping.event_type,
        "event_key": mapping.event_key,
        "split": mapping.split,
        **mapping.defaults,
    }
    return {name: each.expression.text for name, each in found.items() if isinstance(each, Computed)}


def calls(made: Draft) -> dict[str, dict[str, JSON]]:
    """Give the calls that the test expects, by their kind."""
    (test,) = compiled(made).tests
    return {str(call["call"]): call for call in test.expect or ()}


INVOICE: dict[str, Any] = {
    "id": "evt_9",
    "object": "event",
    "type": "invoice.settled",
    "created": 1767225600,
    "data": {
        "object": {
            "object": "invoice",
            "id": "in_4",
            "account_name": "Mill & Sons",
            "customer": "cus_8",
            "customer_email": "Ida@Example.com",
            "customer_name": "Ida Mill",
            "total": 4900,
            "currency": "eur",
            "client_secret": "s3cret",
            "owner_email": "boss@example.com",
        }
    },
}
ORDER: dict[str, Any] = {
    "id": 501,
    "name": "#77",
    "email": "ida@example.com",
    "user_id": 12,
    "total_price": "19.90",
    "created_at": "2026-01-01T10:00:00Z",
    "customer": {
        "id": 8,
        "email": "ida@example.com",
        "first_name": "Ida",
        "default_address": {"city": "Kiel"},
    },
    "line_items": [{"id": 1, "title": "Mug"}],
}
FORM: dict[str, Any] = {
    "event_id": "01J",
    "event_type": "form_answered",
    "form_response": {
        "submitted_at": "2026-01-01T10:00:00Z",
        "answers": [
            {"type": "text", "text": "write to nobody@example.com"},
            {"type": "email", "email": "Ida@Example.com"},
        ],
    },
}
BOOKING: dict[str, Any] = {
    "event": "invitee.booked",
    "created_at": "2026-01-01T10:00:00Z",
    "created_by": "https://meet.example.com/users/7",
    "payload": {
        "email": "ida@example.com",
        "name": "Ida Mill",
        "timezone": "Europe/Berlin",
        "scheduled": {"name": "Demo", "hosts": [{"user_email": "host@example.com", "user": "u7"}]},
    },
}
CONVERSATION: dict[str, Any] = {
    "type": "notification_event",
    "topic": "conversation.answered",
    "id": "notif_3",
    "created_at": 1767225600,
    "data": {
        "item": {
            "type": "conversation",
            "id": "c1",
            "assignee": {"type": "admin", "id": "a1", "email": "help@example.com"},
            "user": {"type": "user", "id": "u8", "user_id": "8", "email": "ida@example.com", "name": "Ida"},
        }
    },
}
SIGNED_UP: dict[str, Any] = {
    "type": "identify",
    "messageId": "m-1",
    "userId": "8",
    "anonymousId": "anon-1",
    "timestamp": "2026-01-01T10:00:00.000Z",
    "traits": {"email": "ida@example.com", "plan": "pro", "address": {"city": "Kiel"}},
    "context": {"ip": "192.0.2.1", "groupId": "g1"},
}
STARRED: dict[str, Any] = {
    "action": "created",
    "starred_at": "2026-01-01T10:00:00Z",
    "repository": {"id": 3, "full_name": "mill/app", "owner": {"id": 4, "type": "User"}},
    "sender": {"id": 8, "login": "ida", "avatar_url": "https://img.example.com/8"},
}
USER: dict[str, Any] = {
    "type": "user.created",
    "object": "event",
    "timestamp": 1767225600000,
    "data": {
        "id": "user_8",
        "object": "user",
        "first_name": "Ida",
        "email_addresses": [{"id": "idn_1", "email_address": "ida@example.com"}],
    },
}
MAIL: dict[str, Any] = {
    "type": "email.opened",
    "created_at": "2026-01-01T10:00:00Z",
    "data": {
        "email_id": "m1",
        "from": "Mill <news@example.com>",
        "to": ["Ida <Ida@Example.com>"],
        "subject": "Hi",
    },
}
DELIVERIES: list[Any] = [
    {"event": "open", "email": "ida@example.com", "timestamp": 1767225600, "smtp-id": "<a@mx.example.com>"},
    {"event": "open", "email": "bob@example.com", "timestamp": 1767225601, "smtp-id": "<b@mx.example.com>"},
]
RECORDS: list[Any] = [{"subscriptionType": "contact.creation", "eventId": 7, "portalId": 3, "objectId": 8}]
RENEWAL: dict[str, Any] = {
    "id": "ev_1",
    "event_type": "subscription_renewed",
    "occurred_at": 1767225600,
    "content": {
        "subscription": {"id": "s1", "customer_id": "c8"},
        "customer": {"id": "c8", "email": "ida@example.com"},
    },
}
PURCHASE: dict[str, Any] = {
    "id": 3,
    "status": "new",
    "customer_id": 0,
    "total": "9.00",
    "billing": {"email": "ida@example.com"},
}
HASH = "sha256(to_json(@))"


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        pytest.param(
            INVOICE,
            {},
            {
                "event_type": "type",
                "event_key": "id",
                "id": "data.object.customer",
                "email": "lower(data.object.customer_email)",
                "timestamp": "created",
            },
            id="an invoice is its customer's, not its owner's",
        ),
        pytest.param(
            INVOICE | {"type": "customer.changed", "data": {"object": {"object": "customer", "id": "cus_8"}}},
            {},
            {"event_type": "type", "event_key": "id", "id": "data.object.id", "timestamp": "created"},
            id="a customer is its own id",
        ),
        pytest.param(
            ORDER,
            {"X-Mill-Topic": "orders/create"},
            {
                "event_type": "header('X-Mill-Topic')",
                "event_key": HASH,
                "id": "customer.id",
                "email": "lower(customer.email)",
                "timestamp": "unix(created_at)",
            },
            id="an order is its customer's, not the clerk's",
        ),
        pytest.param(
            ORDER["customer"],
            {"X-Mill-Topic": "customers/update", "X-Mill-Delivery": "d1"},
            {
                "event_type": "header('X-Mill-Topic')",
                "event_key": "header('X-Mill-Delivery')",
                "id": "id",
                "email": "lower(email)",
            },
            id="a body may be the customer",
        ),
        pytest.param(
            FORM,
            {},
            {
                "event_type": "event_type",
                "event_key": "event_id",
                "email": "lower(first(form_response.answers[?type=='email'].email))",
                "timestamp": "unix(form_response.submitted_at)",
            },
            id="an email among answers",
        ),
        pytest.param(
            BOOKING,
            {},
            {
                "event_type": "event",
                "event_key": HASH,
                "email": "lower(payload.email)",
                "timestamp": "unix(created_at)",
            },
            id="who booked, not who is booked",
        ),
        pytest.param(
            CONVERSATION,
            {},
            {
                "event_type": "topic",
                "event_key": "id",
                "id": "data.item.user.id",
                "email": "lower(data.item.user.email)",
                "timestamp": "created_at",
            },
            id="the user, not the assignee",
        ),
        pytest.param(
            SIGNED_UP,
            {},
            {
                "event_type": "type",
                "event_key": "messageId",
                "id": "userId",
                "email": "lower(traits.email)",
                "anonymous_id": "anonymousId",
                "timestamp": "unix(timestamp)",
            },
            id="the names of a tracking library",
        ),
        pytest.param(
            {"type": "page", "anonymousId": "anon-1", "properties": {"url": "https://example.com"}},
            {},
            {"event_type": "type", "event_key": HASH, "anonymous_id": "anonymousId"},
            id="somebody who has not said who they are",
        ),
        pytest.param(
            STARRED,
            {"X-Code-Event": "star"},
            {
                "event_type": "join('.', [header('X-Code-Event'), action])",
                "event_key": HASH,
                "id": "sender.id",
                "timestamp": "unix(starred_at)",
            },
            id="who did it, not whose it is",
        ),
        pytest.param(
            USER,
            {"svix-signature": "v1,abc"},
            {
                "event_type": "type",
                "id": "data.id",
                "email": "lower(data.email_addresses[0].email_address)",
                "timestamp": "unix(timestamp)",
            },
            id="the first of several emails; the scheme knows the delivery",
        ),
        pytest.param(
            MAIL,
            {},
            {
                "event_type": "type",
                "event_key": HASH,
                "email": "lower(first(split(last(split(data.to[0], '<')), '>')))",
                "timestamp": "unix(created_at)",
            },
            id="who got the mail, not who sent it",
        ),
        pytest.param(
            DELIVERIES,
            {},
            {
                "split": "@",
                "event_type": "event",
                "event_key": HASH,
                "email": "lower(email)",
                "timestamp": "timestamp",
            },
            id="a list of events",
        ),
        pytest.param(
            {"batch": DELIVERIES},
            {},
            {
                "split": "batch",
                "event_type": "event",
                "event_key": HASH,
                "email": "lower(email)",
                "timestamp": "timestamp",
            },
            id="a list of events inside an object",
        ),
        pytest.param(
            RECORDS,
            {},
            {"split": "@", "event_type": "subscriptionType", "event_key": "eventId", "id": "objectId"},
            id="the contact by the event's type",
        ),
        pytest.param(
            RENEWAL,
            {},
            {
                "event_type": "event_type",
                "event_key": "id",
                "id": "content.customer.id",
                "email": "lower(content.customer.email)",
                "timestamp": "occurred_at",
            },
            id="the customer beside the subscription",
        ),
        pytest.param(PURCHASE, {}, {"event_key": HASH, "email": "lower(billing.email)"}, id="a guest has no id"),
    ],
)
def test_the_right_person_type_key_and_time_are_guessed(
    body: JSON, headers: dict[str, str], expected: dict[str, str]
) -> None:
    assert guesses(drafted(body, headers)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"customer": {"id": 8}, "admin": {"id": 1}}, {"id": "customer.id"}),
        ({"customer_id": 8, "account_id": 1, "order_id": 2}, {"id": "customer_id"}),
        (
            {"user": {"id": 8, "email": "a@b.co"}, "customer": None},
            {"id": "user.id", "email": "lower(user.email)"},
        ),
        ({"userid": "8", "agent_id": 1}, {"id": "userid"}),
        ({"member": {"current": {"id": 8}, "previous": {"id": 7}}}, {"id": "member.current.id"}),
        ({"user_id": 12, "customer_id": None}, {}),
        ({"company": {"id": 1, "email": "info@b.co"}}, {}),
        ({"sender": {"id": 1, "type": "Organization"}}, {}),
        ({"topic": "shop/update", "id": 3, "email": "a@b.co"}, {"event_type": "topic"}),
        (
            {"type": "issue", "action": "opened", "actor": {"id": 8}},
            {"event_type": "join('.', [type, action])", "id": "actor.id"},
        ),
        (
            {"type": "event_callback", "event": {"type": "joined", "user": "U8"}},
            {"event_type": "event.type", "id": "event.user"},
        ),
        ({"user": {"id": 8}, "assigned_to": {"email": "a@b.co"}}, {"id": "user.id"}),
        ({"user": {"id": 8}, "invitee_email": "a@b.co"}, {"id": "user.id"}),
        ({"user": {"id": 8, "email": None}}, {"id": "user.id", "email": "lower(user.email)"}),
        ({"recipient": " A@b.co ", "message-id": "<x@b.co>"}, {"email": "lower(trim(recipient))"}),
        ({"From": "a@b.co", "To": "us@b.co", "TextBody": "hello"}, {"email": "lower(From)"}),
        ({"From": "+4915123456789", "To": "+4930123456", "Status": "received"}, {"id": "From"}),
        ({"From": "+4930123456", "To": "+4915123456789", "Status": "delivered"}, {"id": "To"}),
        ({"lead": {"E-Mail": "a@b.co"}}, {"email": 'lower(lead."E-Mail")'}),
        (
            {"values": [{"name": "Email", "value": "a@b.co"}]},
            {"email": "lower(first(values[?name=='Email'].value))"},
        ),
        ({"id": 8, "email": "a@b.co", "first_name": "Ida"}, {"id": "id", "email": "lower(email)"}),
        ({"id": 8, "email": "a@b.co"}, {"email": "lower(email)"}),
        ({"customer_id": "0"}, {}),
        ({"customer": "https://api.example.com/customers/8"}, {}),
    ],
)
def test_people_are_ranked_by_what_the_names_on_the_way_say(fields: dict[str, Any], expected: dict[str, str]) -> None:
    found = guesses(drafted(fields))
    found.pop("event_key")
    assert found == expected


def test_calls_tell_about_the_person_and_the_event_and_keep_secrets_out() -> None:
    made = calls(drafted(INVOICE))
    assert made["identify"]["attributes"] == {"name": "Ida Mill"}
    assert made["track"]["name"] == "Invoice Settled"
    assert made["track"]["attributes"] == {
        "invoice_id": "in_4",
        "account_name": "Mill & Sons",
        "total": 4900,
        "currency": "eur",
    }
    order = calls(drafted(ORDER, {"X-Mill-Topic": "orders/create"}))
    assert order["identify"]["attributes"] == {"first_name": "Ida", "city": "Kiel"}
    assert order["track"]["name"] == "Order Create"
    assert order["track"]["attributes"] == {"order_id": 501, "name": "#77", "total_price": "19.90"}


def test_money_is_kept_as_it_is_and_the_file_says_what_it_may_be() -> None:
    assert "total: =data.object.total  # if in cents: =divide(data.object.total, `100`)\n" in drafted(INVOICE).text
    order = drafted(ORDER, {"X-Mill-Topic": "orders/create"}).text
    assert "total_price: =total_price  # as a number: =to_number(total_price)\n" in order


def test_attributes_that_steer_are_never_guessed() -> None:
    user: dict[str, JSON] = {
        "id": 8,
        "unsubscribed": True,
        "from_address": "x",
        "cio_id": "abc",
        "plan": "pro",
        "api_token": "t",
    }
    made = calls(drafted({"type": "user.changed", "user": user}))
    assert made["identify"]["attributes"] == {"plan": "pro"}


def test_the_body_of_the_test_is_what_the_mapping_reads() -> None:
    made = drafted(FORM | {"noise": ["x"] * 9})
    (test,) = compiled(made).tests
    assert test.body == {
        "event_type": "form_answered",
        "form_response": {
            "submitted_at": "2026-01-01T10:00:00Z",
            "answers": [{"type": "email", "email": "Ida@Example.com"}],
        },
    }


def test_a_deleted_person_is_not_made_anew() -> None:
    made = drafted({"type": "user.deleted", "data": {"id": 8, "object": "user", "email": "a@b.co", "name": "Ida"}})
    assert list(calls(made)) == ["track"]
    assert "# - call: destroy\n" in made.text


@pytest.mark.parametrize(
    "body",
    [
        {"type": "payout.paid", "data": {"object": {"id": "po_1", "amount": 100, "customer": None}}},
        {"type": "company.created", "data": {"item": {"type": "company", "id": 3}}},
        {"a": [[]], "b": {"c": None}},
    ],
)
def test_where_nobody_is_found_nothing_is_called_and_the_file_says_so(body: JSON) -> None:
    made = drafted(body)
    assert made.nobody
    assert "# NOBODY was found" in made.text
    assert "- call: ignore\n" in made.text
    assert calls(made) == {}


def test_a_field_that_is_empty_here_is_named_where_nobody_is_found() -> None:
    assert (
        "Empty here, but it may name the person in other payloads: order.customer_id\n"
        in drafted({"type": "order.made", "order": {"customer_id": None, "total": 1}}).text
    )


@pytest.mark.parametrize(
    ("source", "headers", "expected"),
    [
        ("stripe", {}, "stripe"),
        ("stripe-eu", {}, "stripe"),
        ("pay", {"Stripe-Signature": "t=1,v1=ab"}, "stripe"),
        ("shop", {"x-shopify-hmac-sha256": "abc="}, "shopify"),
        ("code", {"X-Hub-Signature-256": "sha256=ab"}, "github"),
        ("any", {"webhook-signature": "v1,ab"}, "standard"),
        ("ads", {"X-Hub-Signature-256": "sha256=ab", "X-GitHub-Delivery": "1"}, "github"),
        ("support", {"X-Hub-Signature": "sha1=ab"}, "intercom"),
        ("code", {"X-Hub-Signature": "sha256=ab"}, "bitbucket"),
        ("mail", {"X-Twilio-Email-Event-Webhook-Signature": "MEU"}, "sendgrid"),
        ("gitlab", {"X-Gitlab-Token": "abc"}, "gitlab_token"),
        ("gitlab", {}, "gitlab"),
        ("eu-chargebee", {}, "chargebee"),
        (
            "any",
            {"X-Signature": "ab" * 32},
            {"kind": "hmac", "header": "X-Signature", "algorithm": "sha256", "encoding": "hex"},
        ),
        ("lemonsqueezy", {"X-Signature": "ab" * 32}, "lemonsqueezy"),
        ("intercom", {"Stripe-Signature": "t=1,v1=ab"}, "stripe"),
        ("any", {"Authorization": "Basic YTpi"}, "basic"),
        ("any", {}, "bearer"),
        ("any", {"X-Lab-Token": "abc"}, {"kind": "token", "header": "X-Lab-Token"}),
        (
            "any",
            {"X-Mill-Signature": "sha1=" + "ab" * 20},
            {
                "kind": "hmac",
                "header": "X-Mill-Signature",
                "prefix": "sha1=",
                "algorithm": "sha1",
                "encoding": "hex",
            },
        ),
        (
            "any",
            {"X-Mill-Hmac": "A" * 43 + "="},
            {"kind": "hmac", "header": "X-Mill-Hmac", "algorithm": "sha256", "encoding": "base64"},
        ),
        (
            "any",
            {"Mill-Signature": "ts=1767225600;h1=" + "ab" * 32},
            {
                "kind": "hmac",
                "header": "Mill-Signature",
                "items": ";",
                "key": "h1",
                "algorithm": "sha256",
                "encoding": "hex",
                "signed": "{ts}:{body}",
                "timestamp": {"item": "ts"},
            },
        ),
    ],
)
def test_how_the_sender_proves_itself_is_guessed(source: str, headers: dict[str, str], expected: JSON) -> None:
    top = plain(read(drafted(FORM, headers, source).text, "drafted.yaml"))
    assert isinstance(top, dict)
    name = f"{source.upper().replace('-', '_')}_WEBHOOK_SECRET"
    assert top["verify"] == {"scheme": expected, "secret_env": name}


def test_a_time_that_cannot_be_read_gives_way_to_the_next_best() -> None:
    made = drafted(INVOICE | {"created": "a while ago", "sent_at": "2026-01-01T10:00:00Z"})
    assert guesses(made)["timestamp"] == "unix(sent_at)"


@pytest.mark.parametrize("source", ["null", "1", "0", "-", "true", "1e5"])
def test_any_source_has_a_name_that_is_read_back_and_a_variable(source: str) -> None:
    mapping = compiled(drafted(FORM, source=source))
    assert mapping.source == source
    assert mapping.verify.secret_env[0].endswith("_WEBHOOK_SECRET")


@pytest.mark.parametrize("body", [{}, [], [{}], [[]], [1], "text", 1, None])
def test_a_body_without_fields_is_an_error(body: JSON) -> None:
    with pytest.raises(DraftError, match="has no fields"):
        draft("sender", body, {})


# Whatever a payload holds


TEXTS = st.one_of(
    st.sampled_from(
        [
            *(
                "true",
                "null",
                "no",
                "010",
                "1.5",
                "1e5",
                "2026-01-02",
                "12:30",
                "a: b",
                "a #b",
                "=x",
                "- x",
                "",
                "~",
            ),
            *(
                "'",
                '"',
                "\\",
                "\n",
                "\t",
                "\x00",
                "x\x85y",
                "\u2028",
                "\ud83d\ude00",
                "{",
                "*",
                "&a",
                "!x",
                "a|b",
            ),
            *("ida@example.com", "Ida <ida@example.com>", "order.paid", "customers/create", "user", "cus_42"),
            *("2026-01-01T10:00:00Z", "1767225600", "https://example.com/x"),
        ]
    ),
    st.text(max_size=8),
)
NAMES = st.one_of(
    st.sampled_from(
        [
            *(
                "id",
                "type",
                "event",
                "action",
                "created_at",
                "timestamp",
                "email",
                "customer",
                "user",
                "userId",
            ),
            *("customer_email", "first_name", "data", "object", "to", "from", "amount", "currency", "name"),
            *(
                "smtp-id",
                "x: y",
                "a #b",
                "$x",
                "0",
                "true",
                "null",
                'a"b',
                "a\\b",
                "'",
                "é",
                "\u2028",
                "<<",
                "=",
            ),
        ]
    ),
    st.text(max_size=4),
)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.integers(10**9, 2 * 10**12)),
    *(st.floats(allow_nan=False, allow_infinity=False), TEXTS, TEXTS),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=7)
HEADERS = st.dictionaries(
    st.sampled_from(["X-Topic", "X-Code-Event", "Mill-Signature", "X-Delivery", "X-Token", "é b"]),
    TEXTS,
    max_size=3,
)


@settings(max_examples=80, database=None)
@given(body=st.one_of(OBJECTS, st.lists(OBJECTS, min_size=1, max_size=2)), headers=HEADERS)
def test_any_payload_gives_a_file_that_is_right(body: JSON, headers: dict[str, str]) -> None:
    payload = decode(json.dumps(body).encode(), "application/json")
    mapping = compiled(draft("any", payload, headers))
    (test,) = mapping.tests
    if mapping.split is None:
        assert made_of(mapping, payload, headers) == list(test.expect or ())


def made_of(mapping: MappingFile, payload: JSON, headers: dict[str, str]) -> list[dict[str, JSON]]:
    sent = {name.lower(): value for name, value in headers.items()}
    received_at = mapping.tests[0].received_at
    event = Event(source="any", key="test", payload=payload, headers=sent, query={}, received_at=received_at)
    translation = translate(mapping, event)
    assert translation.problem is None
    return [as_json(each.call) for each in translation.planned]


@settings(max_examples=80, database=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_data_that_is_written_as_yaml_is_read_back_as_it_is(data: dict[str, JSON]) -> None:
    data = decode(json.dumps(data).encode(), "")  # type: ignore[assignment]  # an object stays one
    text = yaml_block({"data": data})
    assert plain(read(text, "data.yaml")) == {"data": data}
