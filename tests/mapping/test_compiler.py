"""What mapping files compile to, and what the compiler reports: place, code and message."""

from __future__ import annotations

import time
from textwrap import dedent, indent
from typing import get_args

import pytest

from gateway import verify as signatures
from gateway.customerio.calls import CALLS
from gateway.errors import MappingError, Severity
from gateway.mapping.compiler import parse
from gateway.mapping.model import SPECS, Computed, Constant, Glob, MappingFile, find_rule

HEAD = """\
version: 1
source: shop
verify: {scheme: github, secret_env: SHOP_SECRET}
event_type: =type
"""
IDENTIFY = "- {call: identify, id: =id}"


def problems(text: str) -> list[str]:
    """All problems of a file, warnings too, in the order they are reported."""
    try:
        _, found = parse(dedent(text), "m.yaml")
    except MappingError as error:
        found = error.problems
    return [
        f"{problem.location.line}:{problem.location.column} "
        + ("warning: " if problem.severity is Severity.WARNING else "")
        + f"{problem.code}: {problem.text}"
        for problem in found
    ]


def report(text: str) -> str:
    return "\n".join(problems(text))


def good(text: str) -> MappingFile:
    mapping, warnings = parse(dedent(text), "m.yaml")
    assert warnings == []
    return mapping


def with_call(call: str) -> str:
    """A file whose call starts on line 7, column 7; a call that is no list item is the rest of "- call: "."""
    item = call if call.startswith("- ") else f"- call: {call}"
    return f"{HEAD}events:\n  a:\n{indent(dedent(item).strip(), '    ')}\n"


def test_a_file_with_every_key_of_the_frame_compiles() -> None:
    mapping = good(
        """\
        version: 1
        source: shop-2
        description: A shop
        verify: {scheme: bearer, secret_env: [NEW_TOKEN, OLD_TOKEN]}
        when: =live
        event_type: =type
        event_key: =id
        connection: eu-prod
        region: eu
        x-shared: &shared {plan: =plan}
        defaults:
          id: =user.id
          timestamp: =created
        events:
          a | b.*:
            - call: identify
              connection: other
              region: us
              when: =user
              each: =users
              attributes: *shared
          "*": []
        tests:
          - {name: nothing, body: {type: z}, expect: []}
        """
    )
    assert (mapping.file, mapping.source, mapping.description) == ("m.yaml", "shop-2", "A shop")
    assert mapping.verify.scheme.name == "bearer"
    assert mapping.verify.secret_env == ("NEW_TOKEN", "OLD_TOKEN")
    assert (mapping.connection, mapping.region, mapping.deduplicate) == ("eu-prod", "eu", True)
    assert list(mapping.defaults) == ["id", "timestamp"]
    assert [rule.event_types for rule in mapping.rules] == [("a", "b.*"), ("*",)]
    (call,) = mapping.rules[0].calls
    assert (call.spec.name, call.connection, call.region) == ("identify", "other", "us")
    assert list(call.fields) == ["attributes"]
    assert mapping.tests[0].received_at == 1767225600


def test_the_smallest_file_takes_the_defaults() -> None:
    mapping = good(f"version: 1\nsource: a\nverify: none\nevent_key: none\nevents:\n  '*':\n    {IDENTIFY}\n")
    assert (mapping.connection, mapping.region, mapping.deduplicate) == ("default", None, False)
    assert (mapping.verify.scheme.kind, mapping.verify.secret_env) == ("none", ())
    assert (mapping.when, mapping.event_type, mapping.event_key, mapping.tests) == (None, None, None, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1 empty: the file is empty; it starts with  version: 1"),
        ("- version: 1\n", "1:1 not-an-object: a mapping file is an object of keys; it starts with  version: 1"),
        (
            "description: nothing else\n",
            "1:1 version: 'version' is missing; this language is  version: 1\n"
            "1:1 verify: 'verify' is missing; say how the sender proves itself, e.g.  verify: {scheme:"
            " stripe, secret_env: STRIPE_WEBHOOK_SECRET}  (verify: none  switches the check off)\n"
            "1:1 events: 'events' is missing; it says which calls each event type becomes\n"
            "1:1 source: 'source' is missing; webhooks arrive at /hooks/<source>, e.g.  source: stripe",
        ),
    ],
)
def test_a_file_that_is_not_a_mapping_is_refused(text: str, expected: str) -> None:
    assert report(text) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 2", "1:10 version: 'version' must be 1"),
        ("version: 1", 'version: "1"', "1:10 version: 'version' must be 1"),
        ("version: 1", "version: true", "1:10 version: 'version' must be 1"),
        ("version: 1", "version: [1]", "1:10 version: 'version' must be 1"),
        (
            "source: shop",
            "source: My Shop",
            "2:9 source: 'source' must be lower-case letters, digits and hyphens, for it is part of",
        ),
        (
            "source: shop",
            "source: ../x",
            "2:9 source: 'source' must be lower-case letters, digits and hyphens, for it is part of",
        ),
        (
            "source: shop",
            "sorce: shop",
            "2:1 unknown-key: unknown key 'sorce' at the top of the file; did you mean 'source'?",
        ),
        (
            "event_type: =type",
            "event_type: type",
            "4:13 not-an-expression: 'event_type' must be an expression; did you mean  event_type: =type",
        ),
        ("event_type: =type", "event_type: =typ(", "4:1"),
        ("event_type: =type", "filter: =type", "4:1 unknown-key: unknown key 'filter' at the top of the file"),
    ],
)
def test_the_top_of_a_file_is_checked(old: str, new: str, expected: str) -> None:
    text = f"{HEAD}event_key: =id\nevents: {{'*': []}}\n".replace(old, new)
    found = problems(text)
    assert any(problem.startswith(expected) for problem in found), found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("event_key: id", "5:12 not-an-expression: 'event_key' must be an expression; did you mean  event_key: =id"),
        ("when: true", "5:7 not-an-expression: 'when' must be an expression; a constant is written  when: =`true`"),
        ("when:", "5:6 empty-value: 'when' has no value; write null if a null is meant, or remove it"),
        ("region: mars", "5:9 region: 'region' must be us or eu"),
        (
            "region: =region",
            "5:9 not-literal: 'region' must be literal text: it is fixed when the file is read,"
            " so it cannot be an expression",
        ),
        (
            "connection: EU prod",
            "5:13 connection: 'connection' must be lower-case letters, digits and hyphens, as in  connection: eu-prod",
        ),
        ("description: 42", "5:14 not-literal: 'description' must be text; quote what is meant as text"),
        ("x-anything: {a: [1, =b]}", ""),
        (
            "defaults: {name: =x}",
            "5:12 unknown-key: unknown key 'name' in 'defaults'; defaults are identifiers and 'timestamp'",
        ),
        ("defaults: {idd: =x}", "5:12 unknown-key: unknown key 'idd' in 'defaults'; did you mean 'id'?"),
        ("defaults: {id: user.id}", "5:16 not-an-expression: 'id' must be an expression; did you mean  id: =user.id"),
        ("defaults: [id]", "5:11 wrong-kind: 'defaults' must be an object of identifiers and 'timestamp'"),
        ("tests: {name: a}", "5:8 wrong-kind: 'tests' must be a list: each starts with '- name: …'"),
    ],
)
def test_an_optional_key_at_the_top_is_checked(line: str, expected: str) -> None:
    assert report(f"{HEAD}{line}\nevents: {{'*': []}}\n") == expected


@pytest.mark.parametrize(
    ("verify", "expected"),
    [
        ("stripe", "9 verify: 'verify' must be none, or an object, e.g.  verify: {scheme: stripe, secret_env: "),
        ("{secret_env: A}", "9 verify: 'scheme' is missing, e.g.  verify: {scheme: stripe, secret_env: "),
        (
            "{scheme: github}",
            "9 verify: 'secret_env' is missing; it names the environment variable that holds the secret",
        ),
        ("{scheme: github, secret: A}", "26 unknown-key: unknown key 'secret' in 'verify'; did you mean 'secret_env'?"),
        (
            "{scheme: github, header: X-Signature, secret_env: A}",
            "26 unknown-key: unknown key 'header' in 'verify'; a scheme of your own is written  scheme: {…}",
        ),
        (
            "{scheme: {base: github, heder: X}, secret_env: A}",
            "33 scheme: unknown key 'heder' in a scheme of kind hmac; did you mean 'header'?",
        ),
        (
            "{scheme: {base: stripe, timestamp: {item: t, unit: days}}, secret_env: A}",
            "54 scheme: 'timestamp.unit' must be s, ms or iso, not 'days'",
        ),
        ("{scheme: none, secret_env: A}", "36 verify: the scheme 'none' checks no secret; remove 'secret_env'"),
        ("{scheme: github, secret_env: []}", "38 secret-env: 'secret_env' must name at least one environment variable"),
        (
            "{scheme: github, secret_env: [A, =b]}",
            "42 secret-env: 'secret_env' must name an environment variable; a secret never stands in a mapping file",
        ),
        ("{scheme: {kind: adyen}, secret_env: A}", "19 scheme: 'adyen' is a scheme of the table; write  base: adyen"),
        (
            "{scheme: {base: github, event_type: =type}, secret_env: A}",
            "33 scheme: unknown key 'event_type' in a scheme of kind hmac",
        ),
        (
            "{scheme: github, secret_env: A, networks: []}",
            "51 networks: 'networks' must name at least one address or network",
        ),
        (
            "{scheme: github, secret_env: A, networks: [10.0.0.0/8, example.com]}",
            "64 networks: 'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8",
        ),
        (
            "{scheme: github, secret_env: A, networks: ['fe80::1%eth0']}",
            "52 networks: 'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8",
        ),
        (
            "{scheme: github, secret_env: A, networks: ['::ffff:10.0.0.0/104']}",
            "52 networks: '::ffff:10.0.0.0/104' never matches: an IPv4 address is written as such",
        ),
        (
            "{scheme: github, secret_env: A, networks: 167772160}",
            "51 networks: 'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8",
        ),
        (
            "{scheme: github, secret_env: A, networks: {from: 10.0.0.0/8}}",
            "51 networks: 'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8",
        ),
        (
            "{scheme: github, secret_env: A, networks: }",
            "51 empty-value: 'networks' has no value; write null if a null is meant, or remove it",
        ),
        (
            "{scheme: {base: meta, algorithm: sha1}, secret_env: A}",
            "9 warning: verify-token: the sender (meta) shows a verify token",
        ),
        (
            "{scheme: none, verify_token_env: B}",
            "42 verify-token: the scheme 'none' has no verify token; remove 'verify_token_env'",
        ),
        (
            "{scheme: meta, secret_env: A, verify_token_env: [B, C]}",
            "57 secret-env: 'verify_token_env' must name an environment variable; a secret never stands in a"
            " mapping file",
        ),
    ],
)
def test_verify_has_to_be_complete_and_right(verify: str, expected: str) -> None:
    """The catalogue of mistakes has more of these; *expected* is the column on line 3 and how the message starts."""
    found = problems(f"version: 1\nsource: a\nverify: {verify}\nevents: {{'*': []}}\nevent_key: =id\n")
    assert any(problem.startswith(f"3:{expected}") for problem in found), found


@pytest.mark.parametrize("key", ["secret_env", "verify_token_env"])
def test_a_secret_pasted_where_its_variable_belongs_is_not_repeated(key: str) -> None:
    keys = {"secret_env": "A", "verify_token_env": "B", key: "whsec_c2VjcmV0+/="}
    verify = ", ".join(f"{name}: {value}" for name, value in keys.items())
    text = f"version: 1\nsource: a\nverify: {{scheme: meta, {verify}}}\nevents: {{'*': []}}\nevent_key: =id\n"
    (problem,) = problems(text)
    assert f" secret-env: '{key}' must name" in problem
    assert "c2VjcmV0" not in problem


def verified(verify: str, *lines: str) -> MappingFile:
    return good("\n".join(["version: 1", "source: a", f"verify: {verify}", "events: {'*': []}", *lines]))


@pytest.mark.parametrize(
    ("written", "networks"),
    [
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("3.18.12.63", ["3.18.12.63/32"]),
        ("'::1'", ["::1/128"]),
        ("[3.18.12.63, '2001:db8::/32', 10.0.0.0/255.0.0.0]", ["3.18.12.63/32", "2001:db8::/32", "10.0.0.0/8"]),
    ],
)
def test_the_networks_of_a_sender_are_read(written: str, networks: list[str]) -> None:
    mapping = verified(f"{{scheme: github, secret_env: A, networks: {written}}}")
    assert [str(network) for network in mapping.verify.networks] == networks


def test_networks_alone_can_prove_the_sender() -> None:
    verify = verified("{scheme: none, networks: 10.0.0.0/8}", "event_key: none").verify
    assert (verify.scheme.kind, len(verify.networks)) == ("none", 1)


def test_a_verify_token_is_read_for_senders_that_show_one() -> None:
    mapping = verified("{scheme: meta, secret_env: A, verify_token_env: B}", "event_key: none")
    assert (mapping.verify.token_env, mapping.verify.networks) == ("B", ())
    assert verified("{scheme: github, secret_env: A}").verify.token_env is None


def shown(computed: Computed | None) -> str | None:
    return None if computed is None else computed.expression.text


def test_the_event_type_and_key_of_a_scheme_are_used() -> None:
    mapping = verified("{scheme: stripe, secret_env: A}")
    assert (shown(mapping.event_type), shown(mapping.default_key)) == ("type", "id")
    assert (mapping.event_key, mapping.deduplicate) == (None, True)
    # The place of what a scheme says is that of the scheme.
    assert mapping.event_type is not None
    assert str(mapping.event_type.location) == "m.yaml:3:9"


def test_a_scheme_that_starts_from_another_has_its_event_type_and_key() -> None:
    mapping = verified("{scheme: {base: stripe, algorithm: sha512}, secret_env: A}")
    assert (shown(mapping.event_type), shown(mapping.default_key)) == ("type", "id")


def test_event_type_and_key_of_the_mapping_win() -> None:
    mapping = verified("{scheme: stripe, secret_env: A}", "event_type: =kind", "event_key: =key")
    assert (shown(mapping.event_type), shown(mapping.event_key)) == ("kind", "key")


def test_event_key_none_switches_off_the_key_of_the_scheme_too() -> None:
    mapping = verified("{scheme: stripe, secret_env: A}", "event_key: none")
    assert (mapping.event_key, mapping.default_key, mapping.deduplicate) == (None, None, False)


@pytest.mark.parametrize("name", signatures.schemes())
def test_the_expressions_of_every_scheme_compile(name: str) -> None:
    scheme = signatures.schemes()[name]
    start = "kind" if name in get_args(signatures.Kind) else "base"
    header = "" if scheme.header or scheme.at or "header" not in signatures.KEYS[scheme.kind] else ", header: X-S"
    token = ", verify_token_env: B" if any(each.token for each in scheme.handshakes) else ""
    proof = "" if scheme.kind == "none" else f", secret_env: A{token}"
    key = [] if scheme.names_deliveries else ["event_key: none"]
    mapping = verified(f"{{scheme: {{{start}: {name}{header}}}{proof}}}", *key)
    assert (mapping.event_type is None) == (scheme.event_type is None)
    assert (mapping.default_key is None) == (scheme.event_key is None)


def test_a_scheme_without_a_delivery_and_no_event_key_is_a_warning() -> None:
    text = "version: 1\nsource: a\nverify: {scheme: bearer, secret_env: A}\nevents: {'*': []}\n"
    assert problems(text) == [
        "3:9 warning: no-event-key: this scheme names no delivery, so two genuine webhooks with equal bodies"
        " count as one; set  event_key: =id  or what else tells them apart, or  event_key: none"
    ]
    assert problems(f"{text}event_key: =id\n") == problems(f"{text}event_key: none\n") == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("page\n  id: =id", "7:7 missing-key: 'page' needs a 'url', e.g.  url: =page.url"),
        (
            "identify\n  id: =id\n  plan_of_theirs: =plan",
            "9:7 unknown-key: unknown key 'plan_of_theirs' in call 'identify'; an attribute stands under 'attributes'",
        ),
        (
            "destroy\n  id: =id\n  timestamp: =t",
            "9:7 unknown-key: unknown key 'timestamp' in call 'destroy'; it takes id, email, cio_id",
        ),
        (
            "destroy\n  anonymous_id: =id",
            "7:7 no-identifier: 'destroy' names nobody; give it one of id, email, cio_id, here or under 'defaults'\n"
            "8:7 unknown-key: unknown key 'anonymous_id' in call 'destroy'; it takes id, email, cio_id",
        ),
        ("=type\n  id: =id", f"7:13 unknown-call: unknown call '=type'; it is one of {', '.join(SPECS)}"),
        ("- id: =id", f"7:7 missing-key: 'call' is missing; it is one of {', '.join(SPECS)}"),
        (
            "- track:\n  id: =id\n  name: x",
            "7:7 call-not-flat: a call is written flat:  - call: track  and its keys below 'call',"
            " at the same indentation",
        ),
        (
            "- track",
            "7:7 call-not-flat: a call is written flat:  - call: track  and its keys below 'call',"
            " at the same indentation",
        ),
        ("- 42", "7:7 calls: a call must be an object that starts with  call: …"),
        ("identify\n  id: $.user.id", "8:11 not-an-expression: 'id' must be an expression; did you mean  id: =user.id"),
        (
            "identify\n  id: the user",
            "8:11 not-an-expression: 'id' must be an expression; it is text that starts with =",
        ),
        ("identify\n  id: null", "8:11 not-an-expression: 'id' must be an expression; it is text that starts with ="),
        ("identify\n  id: [=id]", "8:11 not-an-expression: 'id' must be an expression; it is text that starts with ="),
        (
            "identify\n  id: =id\n  timestamp: created",
            "9:18 not-an-expression: 'timestamp' must be an expression; did you mean  timestamp: =created",
        ),
        (
            "identify\n  id:\n  email: ~",
            "8:10 empty-value: 'id' has no value; write null if a null is meant, or remove it\n"
            "9:14 empty-value: 'email' has no value; write null if a null is meant, or remove it",
        ),
        ("track\n  id: =id\n  name: true", "9:13 not-text: 'name' must be text that is not empty, or an expression"),
        ("track\n  id: =id\n  name: ''", "9:13 not-text: 'name' must be text that is not empty, or an expression"),
        (
            "track\n  id: =id\n  name: {or_null: =name}",
            "9:13 not-text: 'name' must be text that is not empty, or an expression",
        ),
        (
            "identify\n  id: =id\n  attributes: [a]",
            "9:19 attributes: 'attributes' must be an object: the name of each attribute, and its value",
        ),
        ("identify\n  id: =id\n  attributes: {'': =a}", "9:20 attribute-name: an attribute needs a name"),
        (
            "identify\n  id: =id\n  attributes_from: {a: =b}",
            "9:24 not-an-expression: 'attributes_from' must be an expression; it is text that starts with =",
        ),
        (
            "ignore\n  reason: =why",
            "8:15 not-literal: 'reason' must be literal text: it is fixed when the file is read,"
            " so it cannot be an expression",
        ),
        ("merge\n  into: {id: =a}\n  from: {email: =b}", ""),
        (
            "merge\n  into: =a",
            "7:7 missing-key: 'merge' needs a 'from', e.g.  from: {id: =old.id}\n"
            "8:13 person: 'into' must be an object with one identifier, e.g.  into: {id: =user.id}",
        ),
        (
            "merge\n  into: {id: =a, email: =b}\n  from: {id: old}",
            "8:13 person: 'into' must have exactly one of id, email, cio_id\n"
            "9:18 not-an-expression: 'id' must be an expression; did you mean  id: =old",
        ),
        ("add_device\n  id: =id\n  token: =t\n  platform: ios\n  last_used: =unix(at)", ""),
        (
            "add_device\n  id: =id\n  token: abc\n  platform: iOS\n  last_used: at",
            "9:14 not-an-expression: 'token' must be an expression; did you mean  token: =abc\n"
            "10:17 platform: 'platform' must be one of ios, android; did you mean 'ios'?\n"
            "11:18 not-an-expression: 'last_used' must be an expression; did you mean  last_used: =at",
        ),
        ("identify_object\n  object_type_id: 1\n  object_id: =id\n  people: [{id: =a}, {email: =b}]", ""),
        ("identify_object\n  object_type_id: 1\n  object_id: =id\n  people: =people", ""),
        (
            "delete_object\n  object_id: acme",
            "7:7 missing-key: 'delete_object' needs a 'object_type_id', e.g.  object_type_id: \"1\"\n"
            "8:18 not-an-expression: 'object_id' must be an expression; did you mean  object_id: =acme",
        ),
        (
            "add_relationships\n  id: =id\n  objects: {object_id: =a}",
            "9:16 members: 'objects' must be a list, each item with object_type_id, object_id, attributes;"
            " or an expression that gives one",
        ),
        (
            "add_relationships\n  id: =id\n  objects: [{object_id: =a, kind: x}, b]",
            "9:17 missing-key: 'object_type_id' is missing in 'objects', e.g.  object_type_id: \"1\"\n"
            "9:33 unknown-key: unknown key 'kind' in 'objects'; it takes object_type_id, object_id, attributes\n"
            "9:43 members: each item in 'objects' is an object with object_type_id, object_id, attributes",
        ),
        ("submit_form\n  email: =e\n  form_id: signup\n  attributes: {color: =c}", ""),
        (
            "submit_form\n  cio_id: =c\n  form_id: 7",
            "7:7 no-identifier: 'submit_form' names nobody; give it one of id, email, here or under 'defaults'\n"
            "8:7 unknown-key: unknown key 'cio_id' in call 'submit_form'; did you mean 'form_id'?",
        ),
        (
            "request\n  method: POST\n  path: =format('/v1/customers/{}/events', url_encode(id))\n"
            "  query: {a: [1, =b]}\n  headers: {X-Trace: =id}\n  data: {name: =name}\n  response_type: text\n"
            "  timeout: 2.5\n  debug: true\n  retry: {max: 3, delay_ms: 500, exponential: true, all_errors: false}",
            "",
        ),
        (
            "request\n  path: https://evil.example/",
            "8:13 path: 'path' has to be a path below /api that starts with one slash, as /v1/accounts/region",
        ),
        (
            "request\n  path: /v1/x\n  method: post\n  response_type: xml\n  timeout: 60\n  debug: yes",
            "9:15 method: 'method' must be one of GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS\n"
            "10:22 response-type: 'response_type' must be one of json, text, binary\n"
            "11:16 wrong-kind: 'timeout' must be a number of seconds, over 0 and at most 20\n"
            "12:14 wrong-kind: 'debug' must be true or false",
        ),
        (
            "request\n  path: /v1/x\n  headers: {Authorization: x}\n  data: {}\n  form: {a: b}\n"
            "  file_names: {f: f.txt}\n  retry: {max: many, delay: 5}",
            "9:17 header: the header 'Authorization' is set by the gateway\n"
            "10:13 two-bodies: 'data' cannot stand beside 'form' or 'files': a request has one body\n"
            "12:20 file-names: there is no file 'f' under 'files'\n"
            "13:20 retry: 'max' has to be a whole number from 0 to 100\n"
            "13:26 unknown-key: unknown key 'delay' in 'retry'; did you mean 'delay_ms'?",
        ),
        (
            "page\n  id: =id\n  url: pricing",
            "9:12 url: 'url' is neither a full address (https://…) nor \"*\" for any page",
        ),
        (
            "add_relationships\n  id: =id\n  objects: []",
            "9:16 members: 'objects' is empty; name one, e.g.  objects: [{object_type_id: 1, object_id: =company.id}]",
        ),
        (
            "submit_form\n  id: =id\n  form_id: f\n  attributes: {a: [1]}",
            "10:23 wrong-kind: 'a' has to be text; write =to_string(…)",
        ),
        (
            "submit_form\n  id: =id\n  form_id: f\n  attributes: {a: null}",
            "10:23 wrong-kind: 'a' has to be text; write =to_string(…)",
        ),
        (
            "request\n  path: /v1/x\n  headers: {X-A: [a]}",
            "9:17 header: the header 'X-A' has to be text of printable ASCII characters",
        ),
        (
            "request\n  path: /v1/x\n  query: {a: null}",
            "9:18 wrong-kind: 'a' in 'query' has to be text, a number or a boolean, or a list of them",
        ),
        (
            "request\n  path: /v1/x\n  form: {a: {b: =c}}",
            "9:17 wrong-kind: 'a' in 'form' has to be text, a number or a boolean, or a list of them",
        ),
        (
            "identify_object\n  object_type_id: 1\n  object_id: =o\n  people: [{}]",
            "10:16 no-identifier: this names nobody; it needs one of id, email, cio_id",
        ),
    ],
)
def test_the_keys_of_a_call_are_checked(call: str, expected: str) -> None:
    """The catalogue of mistakes has more of these."""
    assert report(with_call(call)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=lowr(x)", "9:15 "),
        ('"=lowr(x)"', "9:16 "),
        ("'=lowr(x)'", "9:16 "),
        (">-\n          =lowr(x)", "10:16 "),
        (">-\n          =a ||\n          lowr(x)", "11:15 "),
        ("|\n          =a ||\n            lowr(x)", "11:17 "),
        (">-\n          =a ||\n\n          lowr(x)", "9:14 "),
        ("=a ||\n          lowr(x)", "9:14 "),
        ("&anchor =lowr(x)", "9:23 "),
        ('"\\u003dlowr(x)"', "9:14 "),
    ],
)
def test_the_place_of_an_error_inside_an_expression_is_reported(value: str, expected: str) -> None:
    (found,) = problems(with_call(f"identify\n  id: =id\n  email: {value}"))
    assert found.startswith(expected), found
    assert "lowr" in found


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            "items: [{sku: 'items[0].sku'}]",
            "10:23 warning: looks-like-a-path: 'items[0].sku' is literal text but looks like a path;"
            " write =items[0].sku, or {literal: items[0].sku}",
        ),
        ("plan: {literal: data.plan}", ""),
        ("plan: {literal: {literal: x, or_null: y}}", ""),
        ("note: A sentence. Another one", ""),
        ("price: 1.5", ""),
        (
            "plan: {or_null: data.plan}",
            "10:25 not-an-expression: 'or_null' must be an expression; did you mean  or_null: =data.plan",
        ),
        (
            "plan: {literal: a, extra: b}",
            "10:15 marker: 'literal' stands alone in its braces; an object with such a key is written {literal: {…}}",
        ),
        ("plan: {a: [~]}", "10:20 empty-value: this item has no value; write null if a null is meant, or remove it"),
        ("plan: null", ""),
    ],
)
def test_the_values_of_attributes_are_checked(attributes: str, expected: str) -> None:
    assert report(with_call(f"identify\n  id: =id\n  attributes:\n    {attributes}")) == expected


@pytest.mark.parametrize(
    ("written", "name"),
    [("Invoice Paid", "Invoice Paid"), ("42", "42"), ("2.0", "2"), ("{literal: '=1+1'}", "=1+1"), ("no", "no")],
)
def test_an_event_name_may_be_any_literal_text(written: str, name: str) -> None:
    (call,) = good(with_call(f"track\n  id: =id\n  name: {written}")).rules[0].calls
    value = call.fields["name"]
    assert isinstance(value, Constant)
    assert value.value == name


def test_a_default_that_the_call_takes_is_enough_of_an_identifier() -> None:
    text = f"{HEAD}defaults: {{anonymous_id: =a}}\nevents:\n  a:\n    - {{call: page, url: '*'}}\n"
    good(text)
    assert problems(text.replace("{call: page, url: '*'}", "{call: identify}")) == [
        "8:7 no-identifier: 'identify' names nobody; give it one of id, email, cio_id, here or under 'defaults'"
    ]


def test_a_default_that_is_wrong_is_not_reported_again_by_each_call_that_would_use_it() -> None:
    text = f"{HEAD}defaults: {{id: =lowr(x)}}\nevents: {{a: [{{call: identify}}]}}\n"
    assert problems(text) == ["5:17 unknown-function: unknown function lowr(); did you mean lower()?"]


def test_index_is_known_inside_each_only() -> None:
    call = "track\n  each: =items\n  id: =root().id\n  name: x\n  event_id: =to_string(index())"
    good(with_call(call))
    (found,) = problems(with_call(call.replace("each: =items", "when: =items")))
    assert "index()" in found


def test_all_problems_of_a_file_are_reported_in_order() -> None:
    found = problems(
        """\
        version: 1
        source: shop
        verify: {scheme: github, secret_env: S}
        event_type: type
        events:
          a:
            - call: identify
              id: user.id
              attributes: {plan: data.plan, x: =lowr(y)}
            - call: trak
          b: []
        tests:
          - {nme: x}
        """
    )
    places = [tuple(int(n) for n in problem.split()[0].split(":")) for problem in found]
    assert places == sorted(places)
    assert [line for line, _ in places] == [4, 8, 9, 9, 10, 13, 13, 13, 13]


def test_a_problem_behind_an_anchor_is_reported_once() -> None:
    first = "- {call: identify, id: =id, attributes: &a {plan: data.plan}}"
    text = f"{first}\n- {{call: identify, id: =id, attributes: *a}}"
    assert len(problems(with_call(text))) == 1


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("{a: [], b: []}", ""),
        ("{a | b: [], b | c: []}", "5:21 warning: shadowed-event: 'b' never gets here: 'b' on line 5 comes first"),
        ("{a.*: [], a.b: []}", "5:19 warning: shadowed-event: 'a.b' never gets here: 'a.*' on line 5 comes first"),
        ("{a.*: [], a.b.*: []}", "5:19 warning: shadowed-event: 'a.b.*' never gets here: 'a.*' on line 5 comes first"),
        ("{a.b: [], a.*: []}", ""),
        ("{'*': [], a: []}", "5:19 warning: shadowed-event: 'a' never gets here: '*' on line 5 comes first"),
        ("{a | a: []}", "5:10 warning: shadowed-event: 'a' never gets here: 'a' on line 5 comes first"),
        ("{a |: []}", "5:10 event-type: an event type is missing beside '|'"),
        ("[]", "5:9 events: 'events' must be an object: an event type, and below it a list of calls"),
    ],
)
def test_the_event_types_of_a_file_are_checked(events: str, expected: str) -> None:
    assert report(f"{HEAD}events: {events}\n") == expected


def test_without_an_event_type_only_a_star_can_match() -> None:
    text = HEAD.replace("event_type: =type\n", "event_key: =id\n") + "events: {a: [], '*': []}\n"
    assert problems(text.replace("github", "bearer")) == [
        "5:10 warning: no-event-type: 'a' never matches: without an 'event_type' only \"*\" does"
    ]


def test_the_event_type_of_a_scheme_can_match() -> None:
    assert problems(HEAD.replace("event_type: =type\n", "") + "events: {a: [], '*': []}\n") == []


@pytest.mark.parametrize(
    ("scheme", "lines", "warned"),
    [
        ("github", "event_type: =header('X-Type')", ["event_type"]),
        ("github", "event_type: =header( 'X-GitHub-EVENT' )", []),
        ("github", "event_key: =header('X-GitHub-Delivery')", []),
        ("github", "event_key: =join('-', [id, header('X-Try'), header('X-Day')])", ["event_key", "event_key"]),
        ("bearer", "event_type: =header('X-Type')", []),
        ("{base: github, trust: X-type}", "event_type: =header('X-Type')", []),
        ("{kind: hmac, header: X-S, signed: '{header.X-Type}{body}'}", "event_type: =header('X-Type')", []),
        (
            "{kind: hmac, header: X-S, signed: '{header.X-Types}{body}'}",
            "event_type: =header('X-Type')",
            ["event_type"],
        ),
    ],
)
def test_an_unsigned_header_as_event_type_or_key_is_a_warning(scheme: str, lines: str, warned: list[str]) -> None:
    text = HEAD.replace("event_type: =type\n", "").replace("github", scheme) + f"{lines}\nevents: {{}}\n"
    found = [each for each in problems(text) if "no-event-key" not in each]
    assert [each.partition("take '")[2].partition("'")[0] for each in found] == warned, found
    assert all("trust: X-" in each for each in found)


@pytest.mark.parametrize("key", ["=id", "none"])
def test_an_event_key_is_a_warning_where_the_scheme_does_not_sign_the_body(key: str) -> None:
    text = HEAD.replace("github", "mailgun") + f"event_key: {key}\nevents: {{}}\n"
    (warning,) = problems(text)
    assert warning.startswith("5:12 warning: unsigned-body: the scheme 'mailgun' does not sign the body")


def test_an_event_type_that_is_wrong_is_not_the_same_as_none() -> None:
    text = HEAD.replace("=type", "type").replace("github", "bearer") + "event_key: =id\nevents: {a: []}\n"
    assert problems(text) == [
        "4:13 not-an-expression: 'event_type' must be an expression; did you mean  event_type: =type"
    ]


def test_an_ignore_beside_an_unconditional_call_is_a_warning() -> None:
    ignore, track = "- {call: ignore, when: =test, reason: a test}", "- {call: track, id: =id, name: x"
    assert problems(with_call(f"{ignore}\n{track}}}")) == [
        "7:7 warning: ignore-beside-calls: 'ignore' does not stop the other calls of this event; give those a 'when'"
    ]
    assert problems(with_call(f"{ignore}\n{track}, when: =!test}}")) == []


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("invoice.paid", 0),
        ("invoice.created", 2),
        ("customer.created", 1),
        ("customer.subscription.created", 1),
        ("charge", 3),
        ("Invoice.Paid", 3),
        ("", 3),
        (None, 3),
    ],
)
def test_the_first_rule_that_matches_is_found(event_type: str | None, expected: int) -> None:
    events = "{invoice.paid: [], 'customer.*': [], '*.created | customer.created': [], '*': []}"
    mapping, _ = parse(f"{HEAD}events: {events}\n", "m.yaml")
    assert find_rule(mapping, event_type) is mapping.rules[expected]


def test_without_a_type_no_glob_matches_but_the_bare_star() -> None:
    mapping = good(f"{HEAD}events: {{'**': [], 'a*': []}}\n".replace("'**': [], ", "'b*': [], "))
    assert find_rule(mapping, None) is None
    assert find_rule(mapping, "c") is None


@pytest.mark.parametrize(
    ("glob", "text", "expected"),
    [
        ("a*", "a", True),
        ("a*a", "a", False),
        ("a*a", "aa", True),
        ("*.created", "x.y.created", True),
        ("*.created", "created", False),
        ("a*b*c", "a/b.c", True),
        ("a*b*c", "acb", False),
        ("a*bc*bc", "abc", False),
        ("a*bc*bc", "abcbc", True),
        ("**", "", True),
        ("a.*", "axb", False),
        ("[a]*", "a", False),
    ],
)
def test_a_star_stands_for_any_characters_and_nothing_else_is_special(glob: str, text: str, expected: bool) -> None:
    assert Glob(pieces=tuple(glob.split("*"))).matches(text) is expected


def test_a_hostile_event_type_is_matched_in_linear_time() -> None:
    glob = Glob(pieces=("", *("a",) * 7, "b"))
    start = time.perf_counter()
    assert not glob.matches("a" * 1_000_000)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("{name: x, body: {}, expect: []}", ""),
        ("{name: x, payload: a.json, expect: {error: text}}", ""),
        ("{body: {}, expect: []}", "7:5 test: a test needs a 'name' that says what it shows"),
        ("{name: x, expect: []}", "7:5 test: a test needs either 'body', or 'payload' with the name of a file"),
        (
            "{name: x, body: {}, payload: a.json, expect: []}",
            "7:5 test: a test needs either 'body', or 'payload' with the name of a file",
        ),
        ("{name: x, body: {}}", "7:5 test: a test needs 'expect': a list of calls ([] for none), or {error: text}"),
        (
            "{name: x, body: {}, expect: nothing}",
            "7:33 wrong-kind: 'expect' must be a list of calls ([] for none), or {error: text}",
        ),
        (
            "{name: x, body: {}, expect: [{track: {}}]}",
            f"7:34 test: an expected call must be an object with  call: {'|'.join(CALLS)}",
        ),
        (
            "{name: x, body: {}, expect: {eror: x}}",
            "7:34 unknown-key: unknown key 'eror' in 'expect'; did you mean 'error'?",
        ),
        (
            "{name: x, body: {}, expect: [], header: {}}",
            "7:37 unknown-key: unknown key 'header' in a test; did you mean 'headers'?",
        ),
        (
            "{name: x, body: {}, expect: [], headers: [a]}",
            "7:46 wrong-kind: 'headers' must be an object of names and texts",
        ),
        ("{name: x, body: {}, expect: [], headers: {a: {}}}", "7:50 test: 'a' must be text"),
        (
            "{name: x, body: {}, expect: [], received_at: today}",
            "7:50 wrong-kind: 'received_at' must be whole unix seconds",
        ),
        (
            "{name: x, body: {a: ~}, expect: []}",
            "7:25 empty-value: 'a' has no value; write null if a null is meant, or remove it",
        ),
        ("x", "7:5 test: a test must be an object that starts with  name: …"),
        (
            "{name: x, body: {}, expect: [{call: [a]}]}",
            f"7:34 test: an expected call must be an object with  call: {'|'.join(CALLS)}",
        ),
        (
            "{name: x, body: {}, expect: [{call: 5}]}",
            f"7:34 test: an expected call must be an object with  call: {'|'.join(CALLS)}",
        ),
        ("{name: x, body: {}, expect: [{error: [a]}]}", "7:42 test: 'error' must be text"),
        (
            "{name: x, body: {}, expect: {}}",
            "7:33 test: 'expect' must be a list of calls ([] for none), or {error: text}",
        ),
    ],
)
def test_the_tests_of_a_file_are_checked(test: str, expected: str) -> None:
    assert report(f"{HEAD}events: {{}}\ntests:\n  - {test}\n") == expected


def test_everything_in_a_test_is_data() -> None:
    test = "{name: =x, body: {a: =1, b: data.plan}, headers: {n: 5, t: true}, expect: [{call: track, name: =y}]}"
    (compiled,) = good(f"{HEAD}events: {{}}\ntests:\n  - {test}\n").tests
    assert (compiled.name, compiled.body) == ("=x", {"a": "=1", "b": "data.plan"})
    assert compiled.headers == {"n": "5", "t": "true"}
    assert compiled.expect == ({"call": "track", "name": "=y"},)


@pytest.mark.parametrize(
    ("expression", "steering"),
    [
        ("{plan: plan, recipient: mail}", ["recipient"]),
        ('{"id":id, unsubscribed:gone}', ["id", "unsubscribed"]),
        ("pick(user, ['plan', 'cio_id'])", ["cio_id"]),
        ("{user: {id: id}}", []),
        ("{plan: 'id: x', items: items[?id == `1`]}", []),
        ("omit(user, ['id', 'recipient'])", []),
        ("pick(user, keys(names))", []),
        ("user", []),
    ],
)
def test_a_name_that_is_never_taken_from_an_object_is_a_warning(expression: str, steering: list[str]) -> None:
    text = with_call(f"identify\n  id: =who\n  attributes_from: >-\n    ={expression}")
    assert problems(text) == [
        f"9:24 warning: steering-attribute: '{name}' is never taken out of 'attributes_from', for it steers"
        " Customer.io; write it under 'attributes'"
        for name in steering
    ]
