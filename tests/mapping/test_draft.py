"""Drafts of mappings: the right person is guessed, and the file is right whatever the payload is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.event import JSON
from gateway.mapping.compiler import parse
from gateway.mapping.draft import Draft, DraftError, draft, yaml_block
from gateway.mapping.model import Computed, MappingFile
from gateway.mapping.selftests import run_tests
from gateway.mapping.yaml_nodes import plain, read
from gateway.payload import decode


def data(text: str) -> Any:
    return plain(read(text, "cases.yaml"))


def drafted(body: JSON, headers: dict[str, str] | None = None, source: str = "sender") -> Draft:
    """Draft a mapping; its file must compile without a warning and pass its own test."""
    result = draft(source, body, headers or {})
    compiled(result)
    return result


def compiled(result: Draft) -> MappingFile:
    mapping, warnings = parse(result.text, "drafted.yaml")
    (test,) = run_tests(mapping, dict[str, JSON]().__getitem__)
    assert warnings == []
    assert test.difference is None, f"{result.text}\n{test.difference}"
    return mapping


def guesses(result: Draft) -> dict[str, str]:
    """Return the expressions that route and those of the defaults."""
    mapping = compiled(result)
    routing = {"event_type": mapping.event_type, "event_key": mapping.event_key, "split": mapping.split}
    values = {**routing, **mapping.defaults}
    return {name: value.expression.text for name, value in values.items() if isinstance(value, Computed)}


def calls(result: Draft) -> dict[str, dict[str, JSON]]:
    """Return the calls that the test expects, by their kind."""
    (test,) = compiled(result).tests
    return {str(call["call"]): call for call in test.expect or ()}


WEBHOOKS = data("""
an invoice is its customer's, not its owner's:
  body:
    id: evt_9
    object: event
    type: invoice.settled
    created: 1767225600
    data: {object: {object: invoice, id: in_4, account_name: Mill & Sons, customer: cus_8, client_secret: s3cret,
      customer_email: Ida@Example.com, customer_name: Ida Mill, total: 4900, currency: eur, owner_email: boss@b.co}}
  guesses: {event_type: type, event_key: id, id: data.object.customer, email: lower(data.object.customer_email),
    timestamp: created}
a customer is its own id:
  body: {id: evt_9, type: customer.changed, created: 1767225600, data: {object: {object: customer, id: cus_8}}}
  guesses: {event_type: type, event_key: id, id: data.object.id, timestamp: created}
an order is its customer's, not the clerk's:
  headers: {X-Mill-Topic: orders/create}
  body: {id: 501, name: "#77", email: ida@example.com, user_id: 12, total_price: "19.90",
    created_at: 2026-01-01T10:00:00Z, line_items: [{id: 1, title: Mug}],
    customer: {id: 8, email: ida@example.com, first_name: Ida, default_address: {city: Kiel}}}
  guesses: {event_type: header('X-Mill-Topic'), event_key: sha256(to_json(@)), id: customer.id,
    email: lower(customer.email), timestamp: unix(created_at)}
a body may be the customer:
  headers: {X-Mill-Topic: customers/update, X-Mill-Delivery: d1}
  body: {id: 8, email: ida@example.com, first_name: Ida, default_address: {city: Kiel}}
  guesses: {event_type: header('X-Mill-Topic'), event_key: header('X-Mill-Delivery'), id: id, email: lower(email)}
an email in the text of an answer is nobody's:
  body: {event_id: 01J, event_type: form_answered, form_response: {submitted_at: 2026-01-01T10:00:00Z, answers:
    [{type: text, text: write to nobody@example.com}, {type: email, email: Ida@Example.com}]}}
  guesses: {event_type: event_type, event_key: event_id}
the one who booked, not the host:
  body: {event: invitee.booked, created_at: 2026-01-01T10:00:00Z, created_by: https://meet.example.com/users/7,
    payload: {email: ida@example.com, name: Ida Mill, timezone: Europe/Berlin,
      scheduled: {name: Demo, hosts: [{user_email: host@example.com, user: u7}]}}}
  guesses: {event_type: event, event_key: sha256(to_json(@)), email: lower(payload.email), timestamp: unix(created_at)}
the user, not the assignee:
  body: {type: notification_event, topic: conversation.answered, id: notif_3, created_at: 1767225600,
    data: {item: {type: conversation, id: c1, assignee: {type: admin, id: a1, email: help@example.com},
      user: {type: user, id: u8, user_id: "8", email: ida@example.com, name: Ida}}}}
  guesses: {event_type: topic, event_key: id, id: data.item.user.id, email: lower(data.item.user.email),
    timestamp: created_at}
the names of a tracking library:
  body: {type: identify, messageId: m-1, userId: "8", anonymousId: anon-1, timestamp: 2026-01-01T10:00:00.000Z,
    traits: {email: ida@example.com, plan: pro, address: {city: Kiel}}, context: {ip: 192.0.2.1, groupId: g1}}
  guesses: {event_type: type, event_key: messageId, id: userId, email: lower(traits.email),
    anonymous_id: anonymousId, timestamp: unix(timestamp)}
a visitor without a name:
  body: {type: page, anonymousId: anon-1, properties: {url: https://example.com}}
  guesses: {event_type: type, event_key: sha256(to_json(@)), anonymous_id: anonymousId}
the one who did it, not the owner:
  headers: {X-Code-Event: star}
  body: {action: created, starred_at: 2026-01-01T10:00:00Z,
    repository: {id: 3, full_name: mill/app, owner: {id: 4, type: User}},
    sender: {id: 8, login: ida, avatar_url: https://img.example.com/8}}
  guesses: {event_type: "join('.', [header('X-Code-Event'), action])", event_key: sha256(to_json(@)), id: sender.id,
    timestamp: unix(starred_at)}
the first of several emails, and the delivery id of the scheme:
  headers: {svix-signature: "v1,abc"}
  body: {type: user.created, object: event, timestamp: 1767225600000, data: {id: user_8, object: user,
    first_name: Ida, email_addresses: [{id: idn_1, email_address: ida@example.com}]}}
  guesses: {event_type: type, id: data.id, timestamp: unix(timestamp),
    email: "lower(data.email_addresses[0].email_address)"}
the one who got the mail, not the one who sent it:
  body: {type: email.opened, created_at: 2026-01-01T10:00:00Z,
    data: {email_id: m1, from: Mill <news@example.com>, to: [Ida <Ida@Example.com>], subject: Hi}}
  guesses: {event_type: type, event_key: sha256(to_json(@)), timestamp: unix(created_at),
    email: "lower(first(split(last(split(data.to[0], '<')), '>')))"}
a list of events:
  body:
    - {event: open, email: ida@example.com, timestamp: 1767225600, smtp-id: <a@mx.example.com>}
    - {event: open, email: bob@example.com, timestamp: 1767225601, smtp-id: <b@mx.example.com>}
  guesses: {split: "@", event_type: event, event_key: sha256(to_json(@)), email: lower(email), timestamp: timestamp}
a list of events inside an object:
  body: {batch: [{event: open, email: ida@example.com, timestamp: 1767225600, smtp-id: <a@mx.example.com>}]}
  guesses: {split: batch, event_type: event, event_key: sha256(to_json(@)), email: lower(email), timestamp: timestamp}
the contact by the type of the event:
  body: [{subscriptionType: contact.creation, eventId: 7, portalId: 3, objectId: 8}]
  guesses: {split: "@", event_type: subscriptionType, event_key: eventId, id: objectId}
the customer beside the subscription:
  body: {id: ev_1, event_type: subscription_renewed, occurred_at: 1767225600,
    content: {subscription: {id: s1, customer_id: c8}, customer: {id: c8, email: ida@example.com}}}
  guesses: {event_type: event_type, event_key: id, id: content.customer.id, email: lower(content.customer.email),
    timestamp: occurred_at}
a guest has no id:
  body: {id: 3, status: new, customer_id: 0, total: "9.00", billing: {email: ida@example.com}}
  guesses: {event_key: sha256(to_json(@)), email: lower(billing.email)}
a time that cannot be read gives way to the next best:
  body: {event_id: e1, type: order.paid, created: a while ago, sent_at: 2026-01-01T10:00:00Z, customer_id: 8}
  guesses: {event_type: type, event_key: event_id, id: customer_id, timestamp: unix(sent_at)}
""")
INVOICE = WEBHOOKS["an invoice is its customer's, not its owner's"]["body"]
ORDER = WEBHOOKS["an order is its customer's, not the clerk's"]["body"]
FORM = WEBHOOKS["an email in the text of an answer is nobody's"]["body"]
MAIL = WEBHOOKS["the one who got the mail, not the one who sent it"]["body"]


@pytest.mark.parametrize("name", WEBHOOKS)
def test_the_right_person_type_key_and_time_are_guessed(name: str) -> None:
    webhook = WEBHOOKS[name]
    assert guesses(drafted(webhook["body"], webhook.get("headers"))) == webhook["guesses"]


PEOPLE = data("""
- [{customer: {id: 8}, admin: {id: 1}}, {id: customer.id}]
- [{customer_id: 8, account_id: 1, order_id: 2}, {id: customer_id}]
- [{user: {id: 8, email: a@b.co}, customer: null}, {id: user.id, email: lower(user.email)}]
- [{userid: "8", agent_id: 1}, {id: userid}]
- [{member: {current: {id: 8}, previous: {id: 7}}}, {id: member.current.id}]
- [{user_id: 12, customer_id: null}, {}]
- [{company: {id: 1, email: info@b.co}}, {}]
- [{sender: {id: 1, type: Organization}}, {}]
- [{topic: shop/update, id: 3, email: a@b.co}, {event_type: topic}]
- [{type: issue, action: opened, actor: {id: 8}}, {event_type: "join('.', [type, action])", id: actor.id}]
- [{type: event_callback, event: {type: joined, user: U8}}, {event_type: event.type, id: event.user}]
- [{user: {id: 8}, assigned_to: {email: a@b.co}}, {id: user.id}]
- [{user: {id: 8}, invitee_email: a@b.co}, {id: user.id}]
- [{user: {id: 8, email: null}}, {id: user.id, email: lower(user.email)}]
- [{recipient: " A@b.co ", message-id: <x@b.co>}, {email: lower(trim(recipient))}]
- [{From: a@b.co, To: us@b.co, TextBody: hello}, {email: lower(From)}]
- [{lead: {E-Mail: a@b.co}}, {email: lower(lead."E-Mail")}]
- [{id: 8, email: a@b.co, first_name: Ida}, {id: id, email: lower(email)}]
- [{id: 8, email: a@b.co}, {email: lower(email)}]
- [{customer_id: "0"}, {}]
- [{customer: https://api.example.com/customers/8}, {}]
""")


@pytest.mark.parametrize(("fields", "expected"), PEOPLE)
def test_people_are_ranked_by_the_names_on_the_path(fields: dict[str, Any], expected: dict[str, str]) -> None:
    result = guesses(drafted(fields))
    del result["event_key"]
    assert result == expected


def test_calls_carry_attributes_of_the_person_and_the_event_but_no_secrets() -> None:
    invoice, order = drafted(INVOICE), drafted(ORDER, {"X-Mill-Topic": "orders/create"})
    made = calls(invoice)
    assert made["identify"]["attributes"] == {"name": "Ida Mill"}
    assert made["track"]["name"] == "Invoice Settled"
    attributes = {"invoice_id": "in_4", "account_name": "Mill & Sons", "total": 4900, "currency": "eur"}
    assert made["track"]["attributes"] == attributes
    made = calls(order)
    assert made["identify"]["attributes"] == {"first_name": "Ida", "city": "Kiel"}
    assert made["track"]["name"] == "Order Create"
    assert made["track"]["attributes"] == {"order_id": 501, "name": "#77", "total_price": "19.90"}
    # Money is kept as it is, and a comment says what it may be.
    assert "total: =data.object.total  # if in cents: =divide(data.object.total, `100`)\n" in invoice.text
    assert "total_price: =total_price  # as a number: =to_number(total_price)\n" in order.text


def test_attributes_with_a_meaning_to_customer_io_and_tokens_are_never_guessed() -> None:
    user = data("{id: 8, unsubscribed: true, from_address: x, cio_id: abc, plan: pro, api_token: t}")
    body: JSON = {"type": "user.changed", "anonymousId": "a1", "user": user}
    assert calls(drafted(body))["identify"]["attributes"] == {"plan": "pro"}


def test_the_body_of_the_test_is_what_the_mapping_reads() -> None:
    (test,) = compiled(drafted(MAIL | {"noise": ["x"] * 9})).tests
    read = {"to": ["Ida <Ida@Example.com>"], "subject": "Hi"}
    assert test.body == {"type": "email.opened", "created_at": "2026-01-01T10:00:00Z", "data": read}


def test_a_deleted_person_is_not_created_again() -> None:
    result = drafted({"type": "user.deleted", "data": {"id": 8, "object": "user", "email": "a@b.co", "name": "Ida"}})
    assert list(calls(result)) == ["track"]
    assert "# - call: destroy\n" in result.text


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("{type: payout.paid, data: {object: {id: po_1, amount: 100}}}", "# NOBODY was found"),
        ("{type: company.created, data: {item: {type: company, id: 3}}}", "# NOBODY was found"),
        ("{a: [[]], b: {c: null}}", "# NOBODY was found"),
        ("{type: order.made, order: {customer_id: null}}", "name the person in other payloads: order.customer_id\n"),
    ],
)
def test_where_nobody_is_found_nothing_is_called_and_the_file_says_so(body: str, note: str) -> None:
    result = drafted(data(body))
    assert result.nobody
    assert note in result.text
    assert "- call: ignore\n" in result.text
    assert calls(result) == {}


SCHEMES = """
- [stripe, {}, stripe]
- [stripe-eu, {}, stripe]
- [pay, {Stripe-Signature: "t=1,v1=ab"}, stripe]
- [shop, {x-shopify-hmac-sha256: abc=}, shopify]
- [code, {X-Hub-Signature-256: sha256=ab}, github]
- [any, {webhook-signature: "v1,ab"}, standard]
- [ads, {X-Hub-Signature-256: sha256=ab, X-GitHub-Delivery: "1"}, github]
- [support, {X-Hub-Signature: sha1=ab}, intercom]
- [code, {X-Hub-Signature: sha256=ab}, bitbucket]
- [mail, {X-Twilio-Email-Event-Webhook-Signature: MEU}, sendgrid]
- [gitlab, {X-Gitlab-Token: abc}, gitlab_token]
- [gitlab, {}, gitlab]
- [eu-chargebee, {}, chargebee]
- [lemonsqueezy, {X-Signature: HEX64}, lemonsqueezy]
- [intercom, {Stripe-Signature: "t=1,v1=ab"}, stripe]
- [any, {Authorization: Basic YTpi}, basic]
- [any, {}, bearer]
- [any, {X-Lab-Token: abc}, {kind: token, header: X-Lab-Token}]
- [any, {X-Signature: HEX64}, {kind: hmac, header: X-Signature, algorithm: sha256, encoding: hex}]
- [any, {X-Signature: sha1=HEX40}, {kind: hmac, header: X-Signature, prefix: sha1=, algorithm: sha1, encoding: hex}]
- [any, {X-Mill-Hmac: BASE64}, {kind: hmac, header: X-Mill-Hmac, algorithm: sha256, encoding: base64}]
- - any
  - {Mill-Signature: ts=1767225600;h1=HEX64}
  - {kind: hmac, header: Mill-Signature, items: ;, key: h1, signed: "{ts}:{body}", timestamp: {item: ts},
     algorithm: sha256, encoding: hex}
"""
DIGESTS = {"HEX64": "ab" * 32, "HEX40": "ab" * 20, "BASE64": "A" * 43 + "="}
SCHEMES = re.sub("HEX64|HEX40|BASE64", lambda name: DIGESTS[name[0]], SCHEMES)


@pytest.mark.parametrize(("source", "headers", "scheme"), data(SCHEMES))
def test_the_scheme_is_guessed_from_headers_and_the_name_of_the_source(
    source: str, headers: dict[str, str], scheme: JSON
) -> None:
    variable = f"{source.upper().replace('-', '_')}_WEBHOOK_SECRET"
    assert data(drafted(FORM, headers, source).text)["verify"] == {"scheme": scheme, "secret_env": variable}


@pytest.mark.parametrize("source", ["null", "1", "0", "-", "true", "1e5"])
def test_any_source_has_a_name_that_is_read_back_and_a_variable(source: str) -> None:
    mapping = compiled(drafted(FORM, source=source))
    assert mapping.source == source
    assert mapping.verify.secret_env[0].endswith("_WEBHOOK_SECRET")


@pytest.mark.parametrize("body", [{}, [], [{}], [[]], [1], "text", 1, None])
def test_a_body_without_fields_is_an_error(body: JSON) -> None:
    with pytest.raises(DraftError, match="has no fields"):
        draft("sender", body, {})


# Random payloads, with texts that YAML or an expression may read as something else

ODD = ["", "a: b", "a #b", "=x", "- x", "&a", "!x", "a|b", "x\x85y", "\ud83d\ude00", "<<", "$x", *"~'\"\\{*="]
ODD += ["\n", "\t", "\x00", "\u2028"]
WORDS = ["true", "null", "no", "010", "1.5", "1e5", "2026-01-02", "12:30", "user", "order.paid", "customers/create"]
LIKELY = "ida@example.com|Ida <ida@example.com>|cus_42|2026-01-01T10:00:00Z|1767225600|https://example.com/x"
NAMES_OF_WEBHOOKS = (
    "id type event action created_at timestamp email customer user userId customer_email first_name data object to from"
    " amount currency name smtp-id"
)
TEXTS = st.one_of(st.sampled_from([*ODD, *WORDS, *LIKELY.split("|")]), st.text(max_size=8))
NAMES = st.one_of(st.sampled_from([*NAMES_OF_WEBHOOKS.split(), *ODD, *WORDS]), st.text(max_size=4))
INTEGERS = st.one_of(st.integers(-(10**20), 10**20), st.integers(10**9, 2 * 10**12))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=5)),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=7)
HEADER_NAMES = st.sampled_from(["X-Topic", "X-Code-Event", "Mill-Signature", "X-Delivery", "X-Token", "é b"])


@settings(max_examples=80, database=None)
@given(
    body=st.one_of(OBJECTS, st.lists(OBJECTS, min_size=1, max_size=2)),
    headers=st.dictionaries(HEADER_NAMES, TEXTS, max_size=3),
)
def test_any_payload_gives_a_file_that_compiles_and_passes_its_test_on_the_whole_payload(
    body: JSON, headers: dict[str, str]
) -> None:
    payload = decode(json.dumps(body).encode(), "application/json")
    mapping = compiled(draft("any", payload, headers))
    if mapping.split is None:
        # The test of the file has only what the mapping reads; the whole webhook has to give the same calls.
        (test,) = mapping.tests
        whole = replace(mapping, tests=(replace(test, body=payload, headers=headers),))
        assert [result.difference for result in run_tests(whole, dict[str, JSON]().__getitem__)] == [None]


@settings(max_examples=80, database=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_data_that_is_written_as_yaml_is_read_back_as_it_is(values: dict[str, JSON]) -> None:
    values = decode(json.dumps(values).encode(), "")  # type: ignore[assignment]  # an object stays one
    assert data(yaml_block({"data": values})) == {"data": values}
