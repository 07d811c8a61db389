"""Drafts of mappings: the right person is guessed, and the file is right whatever the payload is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
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


CASES = data(Path(__file__).with_name("draft_cases.yaml").read_text(encoding="utf-8"))
WEBHOOKS = CASES["webhooks"]
INVOICE = WEBHOOKS["an invoice is its customer's, not its owner's"]["body"]
ORDER = WEBHOOKS["an order is its customer's, not the clerk's"]["body"]
FORM = WEBHOOKS["an email in the text of an answer is nobody's"]["body"]
MAIL = WEBHOOKS["the one who got the mail, not the one who sent it"]["body"]


@pytest.mark.parametrize("name", WEBHOOKS)
def test_the_right_person_type_key_and_time_are_guessed(name: str) -> None:
    webhook = WEBHOOKS[name]
    assert guesses(drafted(webhook["body"], webhook.get("headers"))) == webhook["guesses"]


@pytest.mark.parametrize(("fields", "expected"), CASES["people"])
def test_people_are_ranked_by_the_names_on_the_path(fields: dict[str, Any], expected: dict[str, str]) -> None:
    result = guesses(drafted(fields))
    del result["event_key"]
    assert result == expected


def test_calls_carry_attributes_of_the_person_and_the_event_but_no_secrets() -> None:
    invoice, order = drafted(INVOICE), drafted(ORDER, {"X-Mill-Topic": "orders/create"})
    of_invoice = calls(invoice)
    assert of_invoice["identify"]["attributes"] == {"name": "Ida Mill"}
    assert of_invoice["track"]["name"] == "Invoice Settled"
    attributes = {"invoice_id": "in_4", "account_name": "Mill & Sons", "total": 4900, "currency": "eur"}
    assert of_invoice["track"]["attributes"] == attributes
    of_order = calls(order)
    assert of_order["identify"]["attributes"] == {"first_name": "Ida", "city": "Kiel"}
    assert of_order["track"]["name"] == "Order Create"
    assert of_order["track"]["attributes"] == {"order_id": 501, "name": "#77", "total_price": "19.90"}
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


#: What stands for a digest in a header of a case.
DIGESTS = {"HEX64": "ab" * 32, "HEX40": "ab" * 20, "BASE64": "A" * 43 + "="}


@pytest.mark.parametrize(("source", "headers", "scheme"), CASES["schemes"])
def test_the_scheme_is_guessed_from_headers_and_the_name_of_the_source(
    source: str, headers: dict[str, str], scheme: JSON
) -> None:
    headers = {
        name: re.sub("HEX64|HEX40|BASE64", lambda digest: DIGESTS[digest[0]], value) for name, value in headers.items()
    }
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
