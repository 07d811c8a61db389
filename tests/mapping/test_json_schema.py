"""The JSON Schema of the language: it accepts whatever the checker accepts, and refuses what is simple to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from textwrap import indent
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from gateway import verify as signatures
from gateway.cli import main
from gateway.customerio.calls import Kind
from gateway.errors import MappingError, Severity
from gateway.event import JSON
from gateway.mapping.compiler import call_entry, mapping_file, parse, tests_section, verify_section
from gateway.mapping.json_schema import key_schema, language, with_members
from gateway.mapping.key_kinds import CALL_KEYS, KEY_KINDS
from gateway.mapping.key_kinds.key_kind import Schema
from gateway.mapping.yaml_nodes import plain, read
from gateway.verify import read_scheme

MAPPINGS = Path(__file__).parents[2] / "mappings"
SCHEMA = Draft7Validator(language())


def errors(text: str) -> set[str]:
    """The codes of the checker's errors, without its warnings."""
    try:
        parse(text, "m.yaml")
    except MappingError as error:
        return {problem.code for problem in error.problems if problem.severity is Severity.ERROR}
    return set()


def accepted(text: str) -> bool:
    return SCHEMA.is_valid(plain(read(text, "m.yaml")))


HEAD = "version: 1\nsource: shop\nverify: {scheme: github, secret_env: S}\nevent_type: =type\n"


def with_line(line: str) -> str:
    return f"{HEAD}{line}\nevents: {{}}\n"


def with_call(call: str) -> str:
    return f"{HEAD}events:\n  a:\n    - {{call: {call}}}\n"


def with_attribute(value: str) -> str:
    return with_call(f"identify, id: =id, attributes: {{a: {value}}}")


def verified(verify: str) -> str:
    return f"version: 1\nsource: shop\nevents: {{}}\nverify: {verify}\n"


def signed(scheme: str) -> str:
    return verified(f"{{secret_env: S, scheme: {{{scheme}}}}}")


def trying(test: str) -> str:
    return f"{HEAD}events: {{}}\ntests:\n{indent(test, '  ')}\n"


GOOD = [
    # The top
    "version: 1\nsource: shop\nverify: none\nevents: {}\n",
    "version: 1\nsource: 42\nverify: none\nevents: {}\n",
    with_line("description: A shop, in words"),
    with_line("description: ''"),
    with_line("when: =livemode\nsplit: =events\nconnection: eu-prod\nregion: eu"),
    with_line("event_key: =id"),
    with_line("event_key: none"),
    with_line("x-anything: {a: [1, =b, null]}"),
    with_line("let: {plan: =plan, list: [1, =b], none: null, both: {or_null: =c}, is: {literal: =d}}"),
    with_line("tables: {plans: {price_1: Starter, '*': null, list: [1, {a: true}], is: {literal: =x}}}"),
    with_line("tables: {}\nlet: {}\ndefaults: {}\ntests: []"),
    with_line("defaults: {id: =id, email: =e, cio_id: =c, anonymous_id: =a, timestamp: =t}"),
    # Events
    f"{HEAD}events: {{a | b.*: [], '*': [], 404: [], ' c ': []}}\n",
    f"{HEAD}events: {{a: [{{call: ignore}}, {{call: ignore, when: =test, reason: a test}}]}}\n",
    # Calls
    with_call("identify, id: =id, email: =e, cio_id: =c, timestamp: =t, attributes_from: =user"),
    with_call("identify, id: =id, when: =a, each: =b, connection: other, region: us"),
    with_call("track, anonymous_id: =a, name: Order Paid, event_id: =id, attributes: {total: =total}"),
    with_call("track, id: =id, name: 42"),
    with_call("track, id: =id, name: 2.5"),
    with_call("track, id: =id, name: =name"),
    with_call("track, id: =id, name: {literal: =1+1}"),
    with_call("page, id: =id, url: '*'"),
    with_call("page, id: =id, url: HTTPS://example.com"),
    with_call("identify_object, object_type_id: 1, object_id: =o, people: []"),
    with_call("submit_form, id: =id, form_id: f, attributes: {a: 1, b: true, c: {or_null: =d}, e: {literal: =f}}"),
    with_call("request, path: /v1/x, query: {a: [1, =b, {literal: =c}], d: {or_null: =e}}, form: {g: {literal: [1]}}"),
    with_call("screen, id: =id, name: Home"),
    with_call("destroy, id: =id"),
    with_call("suppress, email: =email"),
    with_call("unsuppress, cio_id: =c"),
    with_call("merge, into: {id: =a}, from: {email: =b}"),
    with_call("add_device, id: =id, token: =t, platform: ios, last_used: =at, attributes: {a: 1}"),
    with_call("add_device, id: =id, token: =t, platform: =platform"),
    with_call("add_device, id: =id, token: =t, platform: {literal: android}"),
    with_call("delete_device, id: =id, token: =t"),
    with_call("identify_object, object_type_id: 1, object_id: =id, people: [{id: =a}, {email: =b}]"),
    with_call("identify_object, object_type_id: '1', object_id: =id, people: =people, attributes_from: =@"),
    with_call("delete_object, object_type_id: =type, object_id: =id"),
    with_call("add_relationships, id: =id, objects: [{object_type_id: 1, object_id: =a, attributes: {b: 1}}]"),
    with_call("delete_relationships, id: =id, objects: =objects"),
    with_call("submit_form, email: =e, form_id: signup, attributes: {color: =c}"),
    with_call("request, path: /v1/accounts/region"),
    with_call("request, path: =path, method: =method, data: {a: [=b, null, {or_null: =c}]}, debug: true"),
    with_call("request, path: {literal: /v1/x}, method: POST, response_type: text, timeout: 2.5, data: null"),
    with_call("request, path: /v1/x, query: {a: 1, b: [1, =c]}, headers: {X-A: =id, X-B: a b, X-C: {literal: d}}"),
    with_call("request, path: /v1/x, form: {a: 1}, files: {f: =f, g: text}, file_names: {f: f.txt}"),
    with_call("request, path: /v1/x, retry: {max: 3, delay_ms: 500, exponential: true, all_errors: false}"),
    with_call("request, path: /v1/x, retry: {}, headers: {X-A: '', X-C: {or_null: =d}}"),
    # Whom a call is about may stand under the defaults
    f"{HEAD}defaults: {{email: =e}}\nevents: {{a: [{{call: identify}}, {{call: submit_form, form_id: f}}]}}\n",
    f"{HEAD}defaults: {{anonymous_id: =a}}\nevents: {{a: [{{call: page, url: =url}}]}}\n",
    # Values
    with_attribute("1"),
    with_attribute("null"),
    with_attribute("data.plan"),
    with_attribute("{b: [{c: =d}], e: {or_null: =f}}"),
    with_attribute("{literal: {literal: x, or_null: y}}"),
    with_call("identify, id: =id, attributes: {literal: a, or_null: b, id: c}"),
    with_call("identify, id: =id, attributes: {}"),
    # The check of the sender
    verified("{scheme: stripe, secret_env: [NEW_SECRET, OLD_SECRET]}"),
    verified("{scheme: none}"),
    verified("{scheme: {kind: none, delivery_id: X-Id}}"),
    verified("{scheme: {base: none}}"),
    verified("{scheme: meta, secret_env: S, verify_token_env: T}"),
    verified("{scheme: meta, secret_env: S}"),
    verified("{scheme: {base: meta, algorithm: sha512}, secret_env: S, verify_token_env: T}"),
    verified("{scheme: github, secret_env: S, networks: 10.0.0.0/8}"),
    verified("{scheme: none, networks: [3.18.12.63, '2001:db8::/32', '::1', 10.0.0.0/255.0.0.0]}"),
    verified("{scheme: adyen, secret_env: S}"),
    verified("{scheme: path, secret_env: S}"),
    signed("base: hmac, header: X-Signature"),
    signed("base: stripe"),
    signed("kind: token, header: [X-Token, X-Old-Token], prefix: 'Token '"),
    signed("kind: basic"),
    signed("kind: hmac, header: X-S, key: v1, items: ' ', sep: '=', algorithm: sha512, encoding: base64"),
    signed("base: github, secret: {strip: whsec_, encoding: hex}, delivery_id: [[A, B], C]"),
    signed("base: github, delivery_id: []"),
    signed("kind: ed25519, header: X-S, encoding: hex, secret: {encoding: hex}"),
    signed("kind: ecdsa, header: X-S, timestamp: {header: X-T}, signed: '{ts}{body}'"),
    signed("kind: digest, header: X-S"),
    signed("kind: digest, header: X-S, algorithm: sha1, signed: '{secret}{method}{decoded_url}{body}'"),
    signed("kind: token, at: path"),
    signed("kind: token, at: query.hub.token"),
    signed("base: token, at: 'body.value[].clientState'"),
    signed("kind: hmac, at: body.signature, signed: '{url}{form}'"),
    signed("kind: hmac, header: X-S, positional: true, timestamp: {unit: ms}, signed: '{ts}.{body}'"),
    signed("base: github, positional: false, signed: '{body}{query.a b}{body.a[].b}{header.X-A}'"),
    signed("kind: hmac, header: X-S, timestamp: {body: sent.at, tolerance: 60}"),
    signed("base: adyen, secret: {encoding: base64}, delivery_id: X-Id"),
    signed("base: twilio, delivery_id: X-S"),
    # A place that a mapping names takes that of the scheme it starts from.
    signed("base: stripe, timestamp: {body: t}"),
    signed("base: stripe, at: query.token"),
    signed("base: path, header: X-S"),
    signed("base: stripe, timestamp: {unit: ms, tolerance: none}, signed: '{method}{ts}{header.X-A}{body}'"),
    signed("kind: hmac, header: X-S, timestamp: {header: X-T, unit: iso, tolerance: 60}, signed: '{ts}{body}'"),
    # Tests
    trying("- {name: =x, body: {a: =1}, expect: []}"),
    trying("- {name: 1, payload: a.json, expect: {error: text}, received_at: 1767225600}"),
    trying("- {name: x, body: null, headers: {a: b, n: 5, t: true}, query: {}, expect: []}"),
    trying("- {name: x, body: [], expect: [{call: track, anything: 1}, {error: text}, {call: page, error: 1}]}"),
    trying("- {name: x, body: 1, expect: {error: 5}}"),
    trying("- {name: x, body: 1, expect: [{error: 5}]}"),
    trying("- {name: x, body: 1, expect: {error: 42}}"),
]

BAD = [
    # The top
    "- version: 1\n",
    "version: 1\n",
    "source: shop\nverify: none\nevents: {}\n",
    "version: 1\nverify: none\nevents: {}\n",
    "version: 1\nsource: shop\nevents: {}\n",
    "version: 1\nsource: shop\nverify: none\n",
    "version: 2\nsource: shop\nverify: none\nevents: {}\n",
    "version: true\nsource: shop\nverify: none\nevents: {}\n",
    "version: '1'\nsource: shop\nverify: none\nevents: {}\n",
    "version: 1\nsource: My Shop\nverify: none\nevents: {}\n",
    "version: 1\nsource: 1.5\nverify: none\nevents: {}\n",
    "version: 1\nsource: true\nverify: none\nevents: {}\n",
    with_line("sorce: shop"),
    with_line("description: 42"),
    with_line("description: =text"),
    with_line("when: true"),
    with_line("when: livemode"),
    with_line("split: events"),
    with_line("split: [=events]"),
    with_line("event_key: id"),
    with_line("event_key: null"),
    with_line("connection: EU prod"),
    with_line("connection: 42"),
    with_line("region: mars"),
    with_line("region: =region"),
    with_line("let: [=a]"),
    with_line("let: {a: {or_null: b}}"),
    with_line("tables: {plans: [a]}"),
    with_line("tables: {plans: {a: =b}}"),
    with_line("tables: {plans: {a: [{b: =c}]}}"),
    with_line("tables: {plans: {a: {literal: =b, c: d}}}"),
    with_line("defaults: {name: =x}"),
    with_line("defaults: {id: user.id}"),
    with_line("defaults: [id]"),
    # Events
    f"{HEAD}events: []\n",
    f"{HEAD}events: {{a: {{call: ignore}}}}\n",
    f"{HEAD}events: {{a: null}}\n",
    f"{HEAD}events: {{a: [track]}}\n",
    f"{HEAD}events: {{a: [{{track: {{id: =id, name: x}}}}]}}\n",
    f"{HEAD}events: {{a: [{{}}]}}\n",
    # Calls
    with_call("trak, id: =id"),
    with_call("=type, id: =id"),
    with_call("destroy, anonymous_id: =a"),
    with_call("submit_form, cio_id: =c, form_id: f"),
    with_call("identify, id: user.id"),
    with_call("identify, id: 42"),
    with_call("identify, id: null"),
    with_call("identify, id: {literal: a}"),
    with_call("identify, id: =id, plan: =plan"),
    with_call("identify, id: =id, timestamp: 1767225600"),
    with_call("identify, id: =id, when: true"),
    with_call("identify, id: =id, each: [a]"),
    with_call("identify, id: =id, region: uk"),
    with_call("identify, id: =id, attributes: =user"),
    with_call("identify, id: =id, attributes: [a]"),
    with_call("identify, id: =id, attributes: {'': =a}"),
    with_call("identify, id: =id, attributes_from: {a: =b}"),
    with_call("track, id: =id"),
    with_call("track, id: =id, nmae: x"),
    with_call("track, id: =id, name: ''"),
    with_call("track, id: =id, name: true"),
    with_call("track, id: =id, name: null"),
    with_call("track, id: =id, name: [x]"),
    with_call("track, id: =id, name: {or_null: =name}"),
    with_call("track, id: =id, name: {literal: a, b: c}"),
    with_call("track, id: =id, name: {literal: true}"),
    with_call("track, id: =id, name: x, event_id: x"),
    with_call("page, id: =id"),
    with_call("destroy, id: =id, timestamp: =t"),
    with_call("merge, into: {id: =a}"),
    with_call("merge, into: =a, from: {id: =b}"),
    with_call("merge, into: {id: =a, email: =b}, from: {id: =b}"),
    with_call("merge, into: {}, from: {id: =b}"),
    with_call("merge, into: {anonymous_id: =a}, from: {id: =b}"),
    with_call("add_device, id: =id, token: abc, platform: ios"),
    with_call("add_device, id: =id, token: =t, platform: iOS"),
    with_call("add_device, id: =id, token: =t, platform: {literal: iOS}"),
    with_call("add_device, id: =id, token: =t, platform: ios, last_used: 5"),
    with_call("identify_object, object_id: =id"),
    with_call("delete_object, object_type_id: 1, object_id: acme"),
    with_call("add_relationships, id: =id, objects: {object_id: =a}"),
    with_call("add_relationships, id: =id, objects: [{object_id: =a}]"),
    with_call("add_relationships, id: =id, objects: [{object_type_id: 1, object_id: =a, kind: x}]"),
    with_call("add_relationships, id: =id, objects: objects"),
    with_call("request"),
    with_call("request, path: /v1/x, method: post"),
    with_call("request, path: /v1/x, response_type: xml"),
    with_call("request, path: /v1/x, response_type: =type"),
    with_call("request, path: /v1/x, timeout: 60"),
    with_call("request, path: /v1/x, timeout: 0"),
    with_call("request, path: /v1/x, timeout: true"),
    with_call("request, path: /v1/x, debug: 'yes'"),
    with_call("request, path: /v1/x, query: =query"),
    with_call("request, path: /v1/x, headers: {'X A': b}"),
    with_call("request, path: /v1/x, retry: 3"),
    with_call("request, path: /v1/x, retry: {max: many}"),
    with_call("request, path: /v1/x, retry: {max: 101}"),
    with_call("request, path: /v1/x, retry: {delay: 5}"),
    with_call("request, path: /v1/x, retry: {exponential: 1}"),
    with_call("ignore, reason: =why"),
    with_call("ignore, reason: 5"),
    # Values
    with_attribute("{or_null: data.plan}"),
    with_attribute("{or_null: =a, b: =c}"),
    with_attribute("{literal: a, b: c}"),
    with_attribute("[{b: {literal: a, or_null: =b}}]"),
    # The check of the sender
    verified("stripe"),
    verified("null"),
    verified("[none]"),
    verified("{secret_env: S}"),
    verified("{scheme: gihub, secret_env: S}"),
    verified("{scheme: github, secret: S}"),
    verified("{scheme: github, secret_env: whsec_c2VjcmV0+/=}"),
    verified("{scheme: github, secret_env: []}"),
    verified("{scheme: github, secret_env: [S, =s]}"),
    verified("{scheme: meta, secret_env: S, verify_token_env: [T, U]}"),
    verified("{scheme: meta, secret_env: S, verify_token_env: my-token}"),
    verified("{scheme: meta, secret_env: S, verify_token_env: null}"),
    verified("{scheme: github, secret_env: S, networks: []}"),
    verified("{scheme: github, secret_env: S, networks: null}"),
    verified("{scheme: github, secret_env: S, networks: 10}"),
    verified("{scheme: github, secret_env: S, networks: example.com}"),
    verified("{scheme: github, secret_env: S, networks: [[10.0.0.0/8]]}"),
    verified("{scheme: github, secret_env: S, networks: [10.0.0.0/8, everything]}"),
    signed("kind: adyen"),
    signed("kind: stripe"),
    signed("base: gihub"),
    signed("kind: sha256, header: X-S"),
    signed("kind: token, at: [path]"),
    signed("kind: hmac, header: X-S, positional: 1, timestamp: {unit: ms}, signed: '{ts}.{body}'"),
    signed("kind: hmac, header: X-S, timestamp: {body: ''}"),
    signed("kind: hmac, header: X-S, timestamp: {query: t}, signed: '{ts}.{body}'"),
    signed("kind: hmac, header: X-S, event_type: =type"),
    signed("kind: hmac, header: X-S, content_type: application/json"),
    signed("base: github, header: []"),
    signed("base: github, header: 'X S'"),
    signed("base: github, prefix: 1"),
    signed("base: github, algorithm: md5"),
    signed("base: stripe, key: ''"),
    signed("base: stripe, timestamp: {item: t, unit: days}"),
    signed("base: stripe, timestamp: {tolerance: 604801}"),
    signed("base: stripe, timestamp: {tolerance: never}"),
    signed("base: github, secret: s3cret"),
    signed("base: github, secret: {prefix: a}"),
    signed("base: github, delivery_id: [[]]"),
    # Tests
    with_line("tests: {name: a}"),
    trying("- x"),
    trying("- {body: {}, expect: []}"),
    trying("- {name: x, body: {}}"),
    trying("- {name: [x], body: {}, expect: []}"),
    trying("- {name: x, payload: {}, expect: []}"),
    trying("- {name: x, body: {}, expect: nothing}"),
    trying("- {name: x, body: {}, expect: null}"),
    trying("- {name: x, body: {}, expect: [{call: ignore}]}"),
    trying("- {name: x, body: {}, expect: [{error: [x]}]}"),
    trying("- {name: x, body: {}, expect: {}}"),
    f"{HEAD}tables: {{t: {{a: {{literal: x, b: 1}}}}}}\nevents: {{}}\n",
    with_call("add_relationships, id: =id, objects: []"),
    trying("- {name: x, body: {}, expect: {eror: x}}"),
    trying("- {name: x, body: {}, expect: [], header: {}}"),
    trying("- {name: x, body: {}, expect: [], headers: [a]}"),
    trying("- {name: x, body: {}, expect: [], headers: {a: null}}"),
    trying("- {name: x, body: {}, expect: [], query: {a: {}}}"),
    trying("- {name: x, body: {}, expect: [], received_at: today}"),
]


@pytest.mark.parametrize("text", GOOD)
def test_a_good_file_is_accepted_by_checker_and_schema(text: str) -> None:
    assert errors(text) == set()
    assert [error.message for error in SCHEMA.iter_errors(plain(read(text, "m.yaml")))] == []


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused_by_checker_and_schema(text: str) -> None:
    assert errors(text) != set()
    assert not accepted(text)


@pytest.mark.parametrize("path", sorted(MAPPINGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_mapping_is_accepted_by_the_schema(path: Path) -> None:
    assert accepted(path.read_text(encoding="utf-8"))


#: What only the checker judges, by the code of its error.
ONLY_THE_CHECKER_SEES = {
    "scheme": [
        signed("base: twilio, header: X-S"),
        verified("{scheme: hmac, secret_env: S}"),
        verified("{scheme: token, secret_env: S}"),
        signed("header: X-S"),
        signed("base: github, kind: hmac"),
        signed("kind: hmac"),
        signed("kind: ecdsa"),
        signed("base: token"),
        signed("kind: token, at: header.X-S"),
        signed("kind: token, at: query"),
        signed("kind: token, at: path.token"),
        signed("kind: token, at: 'body.'"),
        signed("kind: token, at: query.token, header: X-S"),
        signed("kind: basic, at: path"),
        signed("kind: ed25519, header: X-S, algorithm: sha256"),
        signed("kind: digest, header: X-S, signed: '{body}'"),
        signed("kind: digest, header: X-S, signed: '{secret}'"),
        signed("base: adyen, header: X-S"),
        signed("base: braintree, secret: {encoding: hex}"),
        signed("base: github, signed: '{id}'"),
        signed("base: github, signed: '{body}{when}'"),
        signed("base: github, signed: '{{body}}'"),
        signed("base: github, signed: '{body}{secret}'"),
        signed("base: github, signed: '{body.data}'"),
        signed("base: github, signed: '{body}{query}'"),
        signed("base: github, signed: '{body}{path}'"),
        signed("base: github, signed: '{body}{header.X S}'"),
        signed("base: github, signed: '{body}{form.a}'"),
        signed("base: github, key: v1"),
        signed("base: stripe, signed: '{body}'"),
        signed("base: stripe, positional: true"),
        signed("base: path, prefix: 'x'"),
        signed("base: recurly, sep: ':'"),
        signed("base: github, sep: ':'"),
    ],
    "event-type": [f"{HEAD}events: {{a |: []}}\n", f"{HEAD}events: {{a | | b: []}}\n", f"{HEAD}events: {{'': []}}\n"],
    "no-identifier": [
        with_call("identify"),
        f"{HEAD}defaults: {{anonymous_id: =a, timestamp: =t}}\nevents: {{a: [{{call: identify}}]}}\n",
        f"{HEAD}defaults: {{cio_id: =c}}\nevents: {{a: [{{call: submit_form, form_id: f}}]}}\n",
        with_call("identify_object, object_type_id: 1, object_id: =o, people: [{}]"),
        with_call("identify_object, object_type_id: 1, object_id: =o, people: [{attributes: {a: b}}]"),
    ],
    "path": [
        with_call("request, path: https://evil.example/"),
        with_call("request, path: //evil.example"),
        with_call("request, path: /api/v1/accounts/region"),
        with_call("request, path: '/v1/x?a=b'"),
        with_call("request, path: 42"),
        with_call("request, path: /v1/../x"),
    ],
    "header": [
        with_call("request, path: /v1/x, headers: {X-A: 5}"),
        with_call("request, path: /v1/x, headers: {X-A: ' b'}"),
        with_call("request, path: /v1/x, headers: {X-A: {literal: ä}}"),
        with_call("request, path: /v1/x, headers: {X-A: [a]}"),
        with_call("request, path: /v1/x, headers: {X-A: {b: c}}"),
        with_call("request, path: /v1/x, headers: {Authorization: x}"),
    ],
    "two-bodies": [
        with_call("request, path: /v1/x, data: {}, form: {a: b}"),
        with_call("request, path: /v1/x, data: {}, files: {a: b}"),
    ],
    "verify": [
        verified("{scheme: github}"),
        verified("{scheme: none, secret_env: S}"),
        verified("{scheme: {kind: none}, secret_env: S}"),
    ],
    "verify-token": [
        verified("{scheme: github, secret_env: S, verify_token_env: T}"),
        verified("{scheme: {base: github}, secret_env: S, verify_token_env: T}"),
        verified("{scheme: none, verify_token_env: T}"),
    ],
    "test": [
        trying("- {name: x, expect: []}"),
        trying("- {name: x, body: {}, payload: a.json, expect: []}"),
        trying("- {name: x, body: {}, expect: [{track: {}}]}"),
        trying("- {name: x, body: {}, expect: [{error: a, code: b}]}"),
    ],
    "url": [with_call("page, id: =id, url: pricing"), with_call("page, id: =id, url: {literal: ftp://x}")],
    "wrong-kind": [
        with_call("request, path: /v1/x, query: {a: null}"),
        with_call("request, path: /v1/x, query: {a: {b: 1}}"),
        with_call("request, path: /v1/x, query: {a: [[1]]}"),
        with_call("request, path: /v1/x, form: {a: {literal: {b: 1}}}"),
        with_call("submit_form, id: =id, form_id: f, attributes: {a: [1]}"),
        with_call("submit_form, id: =id, form_id: f, attributes: {a: null}"),
        with_call("add_device, id: =id, token: =t, platform: ios, attributes: {a: {b: c}}"),
    ],
    "unknown-function": [with_call("identify, id: =lowr(id)")],
    "arity": [with_call("identify, id: =split(id)")],
    "expression": [with_attribute('"=a +"')],
    "unknown-variable": [with_attribute("=var('plan')")],
    "unknown-table": [with_attribute("\"=lookup('plans', a)\"")],
    "index-outside-each": [with_attribute("=index()")],
    "file-names": [with_call("request, path: /v1/x, files: {a: b}, file_names: {b: c}")],
    "empty-value": [with_attribute("~"), with_line("let: {a: }"), trying("- {name: x, body: {a: }, expect: []}")],
    "version": ["version: 1.0\nsource: shop\nverify: none\nevents: {}\n"],
    "retry": [with_call("request, path: /v1/x, retry: {max: 3.0}")],
    "networks": [
        verified("{scheme: github, secret_env: S, networks: 10.0.0.1/8}"),
        verified("{scheme: github, secret_env: S, networks: [1.2.3.4.5, '::1']}"),
    ],
    "duplicate-key": [with_call("destroy, id: =a, id: =b")],
}


@pytest.mark.parametrize(
    ("text", "code"), [(text, code) for code, texts in ONLY_THE_CHECKER_SEES.items() for text in texts]
)
def test_what_takes_more_than_a_schema_is_refused_by_the_checker_alone(text: str, code: str) -> None:
    assert errors(text) == {code}
    # Read as editors do: the gateway's own reader stops at some of these.
    assert SCHEMA.is_valid(yaml.safe_load(text))


#: For each key of a scheme an example that differs from the simplest scheme of its kind, as far as that can be.
BY_KEY = {
    "header": "header: [X-S, X-T]",
    "at": "at: query.signature",
    "prefix": "prefix: a",
    "key": "key: v1",
    "positional": "positional: true, timestamp: {unit: ms}, signed: '{secret}{ts}{body}'",
    "items": "items: ' ', key: v1",
    "sep": "sep: ':', key: v1",
    "algorithm": "algorithm: sha1",
    "encoding": "encoding: base64",
    "secret": "secret: {strip: a}",
    "signed": "signed: '{secret}{url}{body}'",
    "timestamp": "timestamp: {header: X-T}, signed: '{secret}{ts}{body}'",
    "delivery_id": "delivery_id: X-Id",
    "trust": "trust: [X-Type, X-Kind]",
}


def test_each_key_of_a_scheme_has_an_example() -> None:
    assert set(BY_KEY) == {key for keys in signatures.KEYS.values() for key in keys}
    assert set(BY_KEY) == {each.name for each in fields(signatures.Scheme)} - {"name", "kind", *read_scheme.TABLE_ONLY}


def test_each_kind_of_scheme_has_its_keys() -> None:
    assert set(signatures.KEYS) == {*get_args(signatures.Kind), *get_args(signatures.Special)}


@pytest.mark.parametrize("kind", signatures.KEYS)
@pytest.mark.parametrize("key", BY_KEY)
def test_a_kind_of_scheme_takes_its_keys_and_the_schema_accepts_them(
    kind: signatures.Kind | signatures.Special, key: str
) -> None:
    keys = signatures.KEYS[kind]
    start = "kind" if kind in get_args(signatures.Kind) else "base"
    header = "header: X-S, " if "header" in keys and key not in ("header", "at") else ""
    example = BY_KEY[key].replace("{secret}", "{secret}" if kind == "digest" else "")
    proof = "" if kind == "none" else "secret_env: S, "
    text = verified(f"{{{proof}scheme: {{{start}: {kind}, {header}{example}}}}}")
    assert (errors(text) == set()) == (key in keys)
    assert accepted(text) or key not in keys


@pytest.mark.parametrize("name", signatures.schemes())
def test_a_scheme_of_the_table_is_accepted_by_the_schema_where_the_checker_accepts_it(name: str) -> None:
    for scheme in (name, f"{{base: {name}}}", f"{{base: {name}, at: path}}"):
        for rest in ("", ", secret_env: S", ", secret_env: S, verify_token_env: T"):
            text = verified(f"{{scheme: {scheme}{rest}}}")
            assert errors(text) or accepted(text)


CHANGED = [plain(read(text, "m.yaml")) for text in GOOD]
VALUES: list[Any] = [
    *(None, True, 1, 2.5, "", "text", "=a", "none", "a | b", "/v1/x", [], {}, ["=a"], [{"id": "=a"}]),
    *({"a": "=b"}, {"id": "=a"}, {"literal": "=a"}, {"or_null": "=a"}, {"literal": 1, "b": 2}, {"call": "ignore"}),
]
NAMES = sorted(
    {
        *("nmae", "x-a", "literal", "or_null", "call", "base", "kind"),
        *(name for keys in CALL_KEYS.values() for name in keys),
        *verify_section.VERIFY_KEYS,
        *BY_KEY,
    }
)


@st.composite
def changed(draw: st.DrawFn) -> Any:
    """A good file in which one thing, at any depth, is removed, renamed or replaced."""
    return draw(otherwise(draw(st.sampled_from(CHANGED))))


@st.composite
def otherwise(draw: st.DrawFn, value: JSON) -> Any:
    if not value or not isinstance(value, dict | list) or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(VALUES))
    if isinstance(value, list):
        at = draw(st.integers(0, len(value) - 1))
        return [draw(otherwise(item)) if number == at else item for number, item in enumerate(value)]
    name = draw(st.sampled_from(list(value)))
    rest = {key: item for key, item in value.items() if key != name}
    return draw(
        st.one_of(
            *[otherwise(value[name]).map(lambda item: {**value, name: item})] * 3,
            st.just(rest),
            st.sampled_from(NAMES).map(lambda new: {**rest, new: value[name]}),
            st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)).map(lambda new: {**value, new[0]: new[1]}),
        )
    )


@settings(max_examples=300)
@given(data=changed())
def test_the_schema_accepts_any_changed_file_that_the_checker_accepts(data: JSON) -> None:
    text = json.dumps(data, ensure_ascii=False)  # which is YAML too
    assert errors(text) or accepted(text)


def test_every_kind_and_key_of_the_language_is_in_the_schema() -> None:
    shown = language()
    none, proof = shown["properties"]["verify"]["anyOf"]
    by_name, own = proof["properties"]["scheme"]["anyOf"]
    assert KEY_KINDS.keys() == set(Kind)
    assert set(shown["properties"]) == set(mapping_file.TOP_KEYS)
    assert set(shown["properties"]["tests"]["items"]["properties"]) == set(tests_section.TEST_KEYS)
    assert set(proof["properties"]) == set(verify_section.VERIFY_KEYS)
    assert (none["enum"], by_name["enum"]) == (["none"], [*signatures.schemes()])
    assert set(own["properties"]) == {"base", "kind", *BY_KEY}
    for name, keys in CALL_KEYS.items():
        assert set(shown["definitions"][f"call.{name}"]["properties"]) == {*call_entry.COMMON_KEYS, *keys}


def test_a_key_takes_the_same_in_every_call() -> None:
    for keys in CALL_KEYS.values():
        for key in with_members(keys):
            assert key_schema(key) == language()["definitions"][f"key.{key.name}"]


def schemas_below(schema: Any) -> Iterator[Schema]:
    """The schema and all that it is made of."""
    for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from schemas_below(each)
    if isinstance(schema, dict):
        yield schema


def test_every_key_has_a_description() -> None:
    shown = language()
    for schema in schemas_below(shown):
        if schema.get("additionalProperties") is False:
            for name, key in schema["properties"].items():
                if isinstance(key, dict) and "const" not in key:
                    target = shown["definitions"][key["$ref"].rpartition("/")[2]] if "$ref" in key else key
                    assert target.get("description"), name
    assert all(schema["description"] for name, schema in shown["definitions"].items() if name.startswith("call."))


def test_every_example_is_accepted() -> None:
    shown = language()
    for schema in schemas_below(shown):
        for example in schema.get("examples", ()):
            assert Draft7Validator({**schema, "definitions": shown["definitions"]}).is_valid(example), example


def test_it_is_a_valid_schema_and_the_same_each_time() -> None:
    Draft7Validator.check_schema(language())
    assert language() == language()


def test_the_shipped_schema_is_what_the_command_prints() -> None:
    result = CliRunner().invoke(main, ["schema"])
    assert (result.exit_code, result.output[-2:]) == (0, "}\n")
    shipped = (MAPPINGS / "schema.json").read_text(encoding="utf-8")
    assert result.output == shipped, "renew it:  gateway schema > mappings/schema.json"
