"""The likely cause of a refusal: what the operator reads, found for the mistakes that people make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.event import JSON
from gateway.verify import likely_cause, scheme_from, schemes
from gateway.verify.diagnosis import MAX_BODY
from tests.verify.test_check import BODY, HMAC, NOW, SECRET, b64, mac, stripe_header, webhook

SHOWN = b'{"type": "user.created", "name": "Z\\u00f6e"}'
COMPACT = b'{"type":"user.created","name":"Z\xc3\xb6e"}'


def cause(
    scheme: JSON,
    headers: Mapping[str, str],
    secret: str = SECRET,
    body: bytes = BODY,
    url: str = "https://hooks.example.com/hooks/x",
) -> str:
    request = replace(webhook(headers, body), url=url)
    return likely_cause(scheme_from(scheme), [secret], request, NOW) or ""


def signed(body: bytes = BODY, key: bytes = SECRET.encode(), algorithm: str = "sha256") -> dict[str, str]:
    return {"X-Signature": mac(body, key, algorithm).hex()}


@pytest.mark.parametrize(
    ("scheme", "headers", "body", "said"),
    [
        (HMAC, signed(BODY), BODY + b"\n", "for the body without the white space around it"),
        (HMAC, signed(BODY + b"\n"), BODY, "for the body and a line break"),
        (HMAC, signed(b'{\r\n"a": 1\r\n}'), b'{\n"a": 1\n}', "with the line breaks of Windows"),
        (HMAC, signed(COMPACT), BODY, "as JSON that is written in another way"),
        (HMAC, signed(SHOWN), BODY, "as JSON that is written in another way"),
        (HMAC, signed(algorithm="sha1"), BODY, "with  algorithm: sha1, encoding: hex  in the scheme"),
        (
            HMAC,
            {"X-Signature": b64(mac(BODY))},
            BODY,
            "with  algorithm: sha256, encoding: base64  in the scheme",
        ),
        ({**HMAC, "encoding": "base64"}, signed(), BODY, "algorithm: sha256, encoding: hex"),
        (HMAC, signed(key=b"another"), BODY, "most likely the secret is not the one of this sender"),
        (
            "github",
            {"Stripe-Signature": "t=1"},
            BODY,
            "as webhooks of the scheme 'stripe' do; is the scheme right?",
        ),
        (
            "bearer",
            {"Authorization": SECRET},
            BODY,
            "right as it is: if it is sent in",
        ),
        (
            "authorization",
            {"Authorization": f"Bearer {SECRET}"},
            BODY,
            "write  scheme: bearer",
        ),
        ("authorization", {"Authorization": "Bearer other"}, BODY, ""),
        ("github", {}, BODY, ""),
    ],
)
def test_the_mistake_is_named(scheme: JSON, headers: dict[str, str], body: bytes, said: str) -> None:
    found = cause(scheme, headers, body=body)

    assert said in found
    assert bool(said) == bool(found)
    assert SECRET not in found


def test_a_large_body_is_not_tried_again_and_again() -> None:
    body = b" " * (MAX_BODY - 1)

    assert "without the white space" in cause(HMAC, signed(b""), body=body)
    assert "most likely" in cause(HMAC, signed(b""), body=body + b"  ")


def test_a_secret_that_has_to_be_decoded_is_told() -> None:
    key = b"\x00\x01secret-bytes"

    said = cause(HMAC, signed(key=key), "whsec_" + b64(key))
    assert "secret: {strip: whsec_, encoding: base64}" in said
    assert b64(key) not in said
    assert "secret: {encoding: hex}" in cause(HMAC, signed(key=key), key.hex())
    raw = scheme_from({"base": "standard", "secret": {"strip": "", "encoding": "utf8"}})
    at = f"msg_1.{NOW}.".encode() + BODY
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW)}
    decoded = {**headers, "webhook-signature": "v1," + b64(mac(at, key))}
    assert "strip: whsec_, encoding: base64" in (likely_cause(raw, ["whsec_" + b64(key)], webhook(decoded), NOW) or "")


def test_the_wrong_kind_of_secret_is_known_by_its_beginning() -> None:
    headers = {"Stripe-Signature": stripe_header(secret="whsec_right")}

    assert "does not begin with whsec_" in cause("stripe", headers, "sk_live_4711")
    assert "most likely the secret is not" in cause("stripe", headers, "whsec_wrong")


def test_an_old_webhook_with_the_right_signature_is_told_from_a_forged_one() -> None:
    old = {"Stripe-Signature": stripe_header(secret="whsec_x", at=NOW - 4_000)}

    assert "the signature is right" in cause("stripe", old, "whsec_x")
    assert "the signature is right" not in cause("stripe", old, "whsec_y")


@pytest.mark.parametrize(
    ("signed_for", "posted_to", "said"),
    [
        ("http://hooks.example.com/hooks/x", "https://hooks.example.com/hooks/x", "address http://hooks.example.com/hooks/x"),
        ("https://hooks.example.com/hooks/x/", "https://hooks.example.com/hooks/x", "address https://hooks.example.com/hooks/x/"),
        ("https://hooks.example.com/hooks/x", "https://hooks.example.com/hooks/x?a=secret", "hooks/x: set GATEWAY_P"),
        ("https://seen.example.com/hooks/x", "https://hooks.example.com/hooks/x", "address https://seen.example.com/hooks/x:"),
        ("https://other.example.com/hooks/x", "https://hooks.example.com/hooks/x", "or GATEWAY_PUBLIC_URL is not"),
    ],
)  # fmt: skip
def test_another_address_is_named_without_its_query(signed_for: str, posted_to: str, said: str) -> None:
    headers = {
        "x-square-hmacsha256-signature": b64(mac(signed_for.encode() + BODY)),
        "Host": "seen.example.com",
    }

    found = cause("square", headers, url=posted_to)
    assert said in found
    assert "a=secret" not in found


def test_another_template_is_named() -> None:
    scheme: JSON = {**HMAC, "signed": "{ts}.{body}", "timestamp": {"header": "X-Time"}}

    found = cause(scheme, {"X-Time": str(NOW), "X-Signature": mac(f"{NOW}:".encode() + BODY).hex()})
    assert 'signed: "{ts}:{body}"' in found


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
def test_nothing_that_can_be_sent_makes_an_error_of_it(
    name: str, headers: dict[str, str], body: bytes, url: str, secret: str
) -> None:
    found = likely_cause(schemes()[name], [secret], replace(webhook(headers, body), url=url), NOW)
    assert found is None or found
