"""Schemes written in a mapping: what is read of them, and what is wrong with them."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.event import JSON
from gateway.verify import Scheme, SchemeError, Special, scheme_from, schemes
from tests.support.signatures import HMAC

TOKEN: dict[str, JSON] = {"base": "token", "header": "X-Token"}


@pytest.mark.parametrize(
    ("scheme", "key", "problem"),
    [
        ("strip", None, "unknown scheme 'strip'; did you mean 'stripe'?"),
        ("Stripe", None, "did you mean 'stripe'?"),
        ("hmac", None, "add `header`"),
        ("token", None, "add `header`"),
        ({"kind": "hmac"}, "header", "add `header`"),
        (None, None, "a scheme is a name of the table"),
        (["stripe"], None, "a scheme is a name of the table"),
        ({}, None, "starts from either a `base`"),
        ({"header": "X-A"}, None, "starts from either a `base`"),
        ({"base": "stripe", "kind": "hmac"}, "kind", "starts from either a `base`"),
        ({"base": "strip"}, "base", "did you mean 'stripe'?"),
        ({"base": ["stripe"]}, "base", "unknown scheme something that is not text"),
        ({"kind": "hmca"}, "kind", "must be hmac, digest, ed25519, ecdsa, token, basic or none, not 'hmca'; did you"),
        ({**HMAC, "heder": "X-A"}, "heder", "'heder' in a scheme of kind hmac; did you mean 'header'?"),
        ({**TOKEN, "encoding": "hex"}, "encoding", "unknown key 'encoding' in a scheme of kind token"),
        ({**HMAC, "name": "mine"}, "name", "unknown key 'name'"),
        ({**HMAC, "description": "mine"}, "description", "unknown key 'description'"),
        ({**HMAC, "header": "X Signature"}, "header", "must be the name of a header"),
        ({**HMAC, "header": []}, "header", "is an empty list"),
        ({**HMAC, "header": ["X-A", "X B"]}, "header", "must be the name of a header"),
        ({**HMAC, "header": None}, "header", "must be the name of a header"),
        ({**HMAC, "algorithm": "md5"}, "algorithm", "must be sha1, sha256 or sha512, not 'md5'"),
        ({**HMAC, "algorithm": "SHA-256"}, "algorithm", "did you mean 'sha256'?"),
        ({**HMAC, "algorithm": 256}, "algorithm", "not something that is not text"),
        ({**HMAC, "encoding": "base46"}, "encoding", "did you mean 'base64'?"),
        ({**HMAC, "prefix": 1}, "prefix", "must be text"),
        ({**HMAC, "key": ""}, "key", "must not be empty"),
        ({**HMAC, "items": ","}, "items", "add the `key`"),
        ({**HMAC, "sep": "="}, "sep", "add the `key`"),
        ({**HMAC, "key": "v1", "items": ""}, "items", "must not be empty"),
        ({**HMAC, "key": "v1", "prefix": "sha256="}, "prefix", "not both"),
        ({**HMAC, "signed": "{ts}.{body}"}, "signed", "no `timestamp` says where"),
        ({**HMAC, "signed": "{id}.{body}"}, "signed", "no `delivery_id` names its header"),
        ({**HMAC, "signed": "{method}"}, "signed", "leaves the body out"),
        ({**HMAC, "signed": ""}, "signed", "leaves the body out"),
        ({**HMAC, "signed": "{bdoy}"}, "signed", "unknown variable {bdoy}; did you mean 'body'?"),
        ({**HMAC, "signed": "{body"}, "signed", "a brace in 'signed' has no partner"),
        ({**HMAC, "signed": "{{body}}"}, "signed", "a brace in 'signed' has no partner"),
        ({**HMAC, "signed": "{header.}{body}"}, "signed", "unknown variable {header.}"),
        ({**HMAC, "signed": "{header.X Y}{body}"}, "signed", "must be the name of a header"),
        ({**HMAC, "timestamp": {"header": "X-T"}}, "signed", "the timestamp is not signed"),
        ({**HMAC, "timestamp": "X-T"}, "timestamp", "is an object with the keys"),
        ({**HMAC, "timestamp": {}}, "timestamp", "give one"),
        ({**HMAC, "timestamp": {"header": "X-T", "item": "t"}}, "timestamp", "give one"),
        ({**HMAC, "timestamp": {"item": "t"}}, "timestamp.item", "add the `key`"),
        ({**HMAC, "timestamp": {"header": "X-T", "unit": "m"}}, "timestamp.unit", "must be s, ms or iso"),
        ({**HMAC, "timestamp": {"hedaer": "X-T"}}, "timestamp.hedaer", "did you mean 'header'?"),
        *(
            ({"base": "stripe", "timestamp": {"tolerance": bad}}, "timestamp.tolerance", "from 1 to 604800")
            for bad in (0, -1, True, 1.5, "5m", None, 604_801)
        ),
        ({**HMAC, "secret": "hunter2"}, "secret", "the secret itself is in the environment"),
        ({**HMAC, "secret": {"encoding": "utf-8"}}, "secret.encoding", "did you mean 'utf8'?"),
        ({**HMAC, "secret": {"stirp": "x"}}, "secret.stirp", "did you mean 'strip'?"),
        ({**HMAC, "delivery_id": "no header"}, "delivery_id", "must be the name of a header"),
    ],
)  # fmt: skip
def test_a_wrong_scheme_says_where_it_is_wrong_and_the_fix(scheme: JSON, key: str | None, problem: str) -> None:
    with pytest.raises(SchemeError) as caught:
        scheme_from(scheme)

    assert caught.value.key == key
    assert problem in caught.value.problem
    assert "hunter2" not in str(caught.value)


def test_a_new_place_of_signature_or_timestamp_replaces_that_of_the_base() -> None:
    scheme = scheme_from({"base": "stripe", "timestamp": {"header": "X-Time"}, "at": "query.sig", "items": ";"})

    assert (scheme.header, str(scheme.at), scheme.items) == ((), "parameter sig of the address", ";")
    assert scheme.timestamp is not None
    assert (scheme.timestamp.header, scheme.timestamp.item) == (("X-Time",), None)
    assert scheme_from({"base": "path", "header": "X-Secret"}).at is None


def test_a_scheme_of_your_own_keeps_what_it_does_not_replace() -> None:
    scheme = scheme_from({"base": "standard", "secret": {"encoding": "utf8"}})

    assert (scheme.secret.strip, scheme.secret.encoding) == ("whsec_", "utf8")
    assert scheme.header == schemes()["standard"].header
    assert scheme_from({"kind": "basic"}) == schemes()["basic"]


def test_a_template_may_name_fields_of_the_request_beside_the_body() -> None:
    signed = "{body.signature.timestamp}{body.signature.token}{query.none}{body}"
    assert scheme_from({"kind": "hmac", "at": "body.signature.signature", "signed": signed}).signed == signed


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["hmac", "token", "X-A", "{body}", "sha256"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Scheme.__dataclass_fields__, "base", "tolerance", "unit", "item", "strip"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_value_of_a_mapping_gives_a_scheme_that_can_verify_or_a_scheme_error(value: JSON) -> None:
    try:
        scheme = scheme_from(value)
    except SchemeError:
        return
    assert scheme.kind == "none" or scheme.header or scheme.at or scheme.kind in get_args(Special)
