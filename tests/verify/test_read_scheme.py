"""Schemes written in a mapping: what is read of them, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.event import JSON
from gateway.mapping.yaml_nodes import plain, read
from gateway.verify import Scheme, SchemeError, Special, scheme_from, schemes

ERRORS: Any = plain(
    read(Path(__file__).with_name("scheme_errors.yaml").read_text(encoding="utf-8"), "scheme_errors.yaml")
)


@pytest.mark.parametrize(
    ("scheme", "key", "problem"),
    ERRORS,
)
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
