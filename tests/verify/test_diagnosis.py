"""The likely cause of a refusal, for the mistakes that people make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.event import JSON
from gateway.verify import likely_cause, scheme_from, schemes
from gateway.verify.diagnosis import MAX_BODY
from tests.support.signatures import BODY, HMAC, NOW, SECRET, b64, mac, stripe_header, webhook

ADDRESS = "https://hooks.example.com/hooks/x"
ESCAPED = b'{"type": "user.created", "name": "Z\\u00f6e"}'
COMPACT = b'{"type":"user.created","name":"Z\xc3\xb6e"}'
KEY = b"\x00\x01secret-bytes"


def cause(
    scheme: JSON, headers: Mapping[str, str], secret: str = SECRET, body: bytes = BODY, url: str = ADDRESS
) -> str:
    return likely_cause(scheme_from(scheme), [secret], replace(webhook(headers, body), url=url), NOW) or ""


def signed(body: bytes = BODY, key: bytes = SECRET.encode(), algorithm: str = "sha256") -> dict[str, str]:
    return {"X-Signature": mac(body, key, algorithm).hex()}


@pytest.mark.parametrize(
    ("scheme", "headers", "body", "text"),
    [
        (HMAC, signed(BODY), BODY + b"\n", "for the body without the white space around it"),
        (HMAC, signed(BODY + b"\n"), BODY, "for the body and a line break"),
        (HMAC, signed(b'{\r\n"a": 1\r\n}'), b'{\n"a": 1\n}', "with the line breaks of Windows"),
        (HMAC, signed(COMPACT), BODY, "as JSON that is written in another way"),
        (HMAC, signed(ESCAPED), BODY, "as JSON that is written in another way"),
        (HMAC, signed(algorithm="sha1"), BODY, "with  algorithm: sha1, encoding: hex  in the scheme"),
        (HMAC, {"X-Signature": b64(mac(BODY))}, BODY, "with  algorithm: sha256, encoding: base64  in the scheme"),
        ({**HMAC, "encoding": "base64"}, signed(), BODY, "algorithm: sha256, encoding: hex"),
        (
            {**HMAC, "signed": "{ts}.{body}", "timestamp": {"header": "X-Time"}},
            {"X-Time": str(NOW), **signed(f"{NOW}:".encode() + BODY)},
            BODY,
            'signed: "{ts}:{body}"',
        ),
        (HMAC, signed(key=b"another"), BODY, "most likely the secret is not the one of this sender"),
        ("github", {"Stripe-Signature": "t=1"}, BODY, "as webhooks of the scheme 'stripe' do; is the scheme right?"),
        ("bearer", {"Authorization": SECRET}, BODY, "right as it is: if it is sent in"),
        ("authorization", {"Authorization": f"Bearer {SECRET}"}, BODY, "write  scheme: bearer"),
        ("authorization", {"Authorization": "Bearer other"}, BODY, ""),
        ("github", {}, BODY, ""),
    ],
)
def test_the_mistake_is_named(scheme: JSON, headers: dict[str, str], body: bytes, text: str) -> None:
    shown = cause(scheme, headers, body=body)

    assert text in shown
    assert bool(text) == bool(shown)
    assert SECRET not in shown


def test_the_search_ends_when_its_time_is_over_and_says_so() -> None:
    def search(tries: int, headers: Mapping[str, str], scheme: JSON = "stripe") -> tuple[str, int]:
        answers = iter([True] * tries)
        request = webhook(headers, BODY + b" ")
        text = likely_cause(scheme_from(scheme), ["whsec_x"], request, NOW, still_time=lambda: next(answers, False))
        return text or "", tries - len(list(answers))

    early = "not every usual mistake was tried"
    changed = {"Stripe-Signature": stripe_header(BODY, "whsec_x")}
    assert early in search(1, changed)[0]
    assert search(2, changed) == (search(1_000, changed)[0], 2)
    assert "without the white space" in search(2, changed)[0]
    wrong = {"Stripe-Signature": stripe_header(BODY, "whsec_y")}
    text, tries = search(1_000, wrong)
    assert early not in text
    assert search(tries, wrong) == (text, tries)
    assert search(tries - 1, wrong) == (f"{text} (the search ended early: {early})", tries - 1)
    assert search(0, {}) == ("", 0)


def test_a_body_beyond_a_size_is_not_tried_in_variants() -> None:
    body = b" " * (MAX_BODY - 1)

    assert "without the white space" in cause(HMAC, signed(b""), body=body)
    assert "most likely" in cause(HMAC, signed(b""), body=body + b"  ")


@pytest.mark.parametrize(
    ("scheme", "headers", "secret", "text"),
    [
        (HMAC, signed(key=KEY), "whsec_" + b64(KEY), "secret: {strip: whsec_, encoding: base64}"),
        (HMAC, signed(key=KEY), KEY.hex(), "secret: {encoding: hex}"),
        (
            {"base": "standard", "secret": {"strip": "", "encoding": "utf8"}},
            {
                "webhook-id": "msg_1",
                "webhook-timestamp": str(NOW),
                "webhook-signature": "v1," + b64(mac(f"msg_1.{NOW}.".encode() + BODY, KEY)),
            },
            "whsec_" + b64(KEY),
            "strip: whsec_, encoding: base64",
        ),
    ],
)
def test_a_secret_that_has_to_be_decoded_is_recognized(
    scheme: JSON, headers: dict[str, str], secret: str, text: str
) -> None:
    shown = cause(scheme, headers, secret)

    assert text in shown
    assert secret.removeprefix("whsec_") not in shown


def test_a_secret_of_the_wrong_kind_is_recognized_by_its_beginning() -> None:
    headers = {"Stripe-Signature": stripe_header(secret="whsec_right")}

    assert "does not begin with whsec_" in cause("stripe", headers, "sk_live_4711")
    assert "most likely the secret is not" in cause("stripe", headers, "whsec_wrong")


def test_an_old_webhook_with_the_right_signature_is_not_taken_for_a_forged_one() -> None:
    headers = {"Stripe-Signature": stripe_header(secret="whsec_x", at=NOW - 4_000)}

    assert "the signature is right" in cause("stripe", headers, "whsec_x")
    assert "the signature is right" not in cause("stripe", headers, "whsec_y")


@pytest.mark.parametrize(
    ("signed_for", "posted_to", "text"),
    [
        ("http://hooks.example.com/hooks/x", ADDRESS, "address http://hooks.example.com/hooks/x"),
        (f"{ADDRESS}/", ADDRESS, f"address {ADDRESS}/"),
        (ADDRESS, f"{ADDRESS}?a=secret", "hooks/x: set GATEWAY_P"),
        ("https://seen.example.com/hooks/x", ADDRESS, "address https://seen.example.com/hooks/x:"),
        ("https://other.example.com/hooks/x", ADDRESS, "or GATEWAY_PUBLIC_URL is not"),
    ],
)
def test_another_address_is_named_without_its_query(signed_for: str, posted_to: str, text: str) -> None:
    signature = b64(mac(signed_for.encode() + BODY))
    headers = {"x-square-hmacsha256-signature": signature, "Host": "seen.example.com"}

    shown = cause("square", headers, url=posted_to)
    assert text in shown
    assert "a=secret" not in shown


@given(
    name=st.sampled_from([name for name, scheme in schemes().items() if scheme.header or scheme.at]),
    headers=st.dictionaries(
        st.sampled_from(sorted({name for scheme in schemes().values() for name in scheme.header})),
        st.text(max_size=40),
    ),
    body=st.binary(max_size=60),
    url=st.text(max_size=40),
    secret=st.text(max_size=20),
)
def test_any_request_gets_a_cause_or_none_and_raises_nothing(
    name: str, headers: dict[str, str], body: bytes, url: str, secret: str
) -> None:
    shown = likely_cause(schemes()[name], [secret], replace(webhook(headers, body), url=url), NOW)
    assert shown is None or shown
