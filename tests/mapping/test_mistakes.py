"""The mistakes that people make in mapping files, each with its messages: the place and the fix."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.errors import MappingError
from gateway.mapping.compiler import parse

HEAD = "version: 1\nsource: shop\nverify: none\nevent_key: none\nevent_type: =type\n"
TRACK = "events:\n  a:\n    - call: track\n      id: =user.id\n      name: Paid\n"

#: The mistake; where it is, which may be a whole file, what is below HEAD, the `verify` of an empty file, or further
#: keys of TRACK, from line 11, column 7; and the messages, which are errors if they do not say warning.
MISTAKES = [
    (
        "an expression without its =",
        "events:\n  a:\n    - call: track\n      id: user.id\n      name: Paid\n      when: =x\n",
        "9:11: not-an-expression: 'id' must be an expression; did you mean  id: =user.id",
    ),
    (
        "a number where an expression belongs",
        "events:\n  a:\n    - call: track\n      id: 42\n      name: Paid\n      when: =x\n",
        "9:11: not-an-expression: 'id' must be an expression; a constant is written  id: =`42`",
    ),
    (
        "a path without its = among the attributes",
        "attributes:\n  plan: data.plan",
        "12:15: warning looks-like-a-path: 'data.plan' is literal text but looks like a path; write"
        " =data.plan, or {literal: data.plan}",
    ),
    (
        "the placeholders of another tool in a text",
        "attributes:\n  greeting: Hello {{ user.name }}",
        "12:19: warning looks-like-a-template: this is literal text, in which nothing is replaced; write an"
        " expression: =format('Hello {}', user.name)",
    ),
    (
        "the placeholders of another tool around a path",
        'events:\n  a:\n    - call: track\n      id: "{{ user.id }}"\n      name: Paid\n      when: =x\n',
        "9:11: not-an-expression: 'id' must be an expression; did you mean  id: =user.id",
    ),
    (
        "a path as JSONPath writes it",
        "events:\n  a:\n    - call: track\n      id: =$.user.id\n      name: Paid\n      when: =x\n",
        "9:12: expression: bad expression: names start at the body by themselves, without $",
    ),
    (
        "a path as jq writes it",
        "when: =.user.x",
        "11:14: expression: bad expression: names start at the body by themselves, without a dot",
    ),
    ("a dot too many", "when: =user..x", "11:19: expression: bad expression: . does not fit here"),
    ("a path that ends with a dot", "when: =user.", "11:19: expression: bad expression: it ends too early"),
    (
        "a misspelt key",
        "events:\n  a:\n    - call: track\n      id: =user.id\n      nmae: Paid\n",
        "8:7: missing-key: 'track' needs a 'name', e.g.  name: Invoice Paid\n"
        "10:7: unknown-key: unknown key 'nmae' in call 'track'; did you mean 'name'?",
    ),
    (
        "a misspelt call",
        "events:\n  a:\n    - call: trak\n      id: =user.id\n      name: x\n",
        "8:13: unknown-call: unknown call 'trak'; did you mean 'track'?",
    ),
    (
        "a misspelt function",
        "attributes:\n  email: =lowr(email)",
        "12:17: unknown-function: unknown function lowr(); did you mean lower()?",
    ),
    (
        "a function of another language",
        "when: =len(items) > `0`",
        "11:14: unknown-function: unknown function len(); did you mean length()?",
    ),
    (
        "an argument that is missing",
        "attributes:\n  tags: =split(tags)",
        "12:16: arity: split() takes 2 arguments, got 1",
    ),
    ("an if without its otherwise", "attributes:\n  x: =if(a, 'yes')", "12:13: arity: if() takes 3 arguments, got 2"),
    (
        "a field name with a hyphen",
        "attributes:\n  x: =user.my-key",
        "12:20: unquoted-name: bad expression: a field name with '-' needs double quotes: user.\"my-key\"",
    ),
    (
        "a field name that starts with a digit",
        "attributes:\n  x: =user.2fa",
        '12:18: unquoted-name: bad expression: a field name that starts with a digit needs double quotes: user."2fa"',
    ),
    (
        "a field name with a blank",
        "attributes:\n  x: =user.first name",
        '12:24: expression: bad expression: a field name with a blank needs double quotes: user."first name"',
    ),
    (
        "a field name in single quotes",
        "attributes:\n  x: =user.'first name'",
        '12:18: expression: bad expression: a field name is written in double quotes: user."first name"',
    ),
    (
        "an index behind a dot",
        "attributes:\n  x: =items.0.sku",
        "12:19: expression: bad expression: an index is written in brackets: items[0]",
    ),
    (
        "an index in brackets behind a dot",
        "attributes:\n  x: =items.[0]",
        "12:20: expression: bad expression: an index has no dot before it: a[0]",
    ),
    (
        "text in double quotes",
        'when: =status == "paid"',
        "11:24: quoted-field: \"paid\" after == is a field name; text is written 'paid'",
    ),
    (
        "typographic quotes",
        "when: =type == ‘a’",
        "11:22: expression: bad expression: text is written in straight quotes: 'paid'",
    ),
    (
        "a quote that is never closed",
        "when: =type == 'a",
        '11:22: expression: bad expression: \' is opened here and never closed; if the text contains " #",'
        " write the expression as a block (key: >-)",
    ),
    (
        "a number without backticks",
        "when: =total > 5",
        "11:22: bare-number: numbers in expressions are written in backticks: `5`",
    ),
    ("true without backticks", "when: =live == true", "11:22: bare-word: 'true' is a field name; write `true`"),
    ("None for null", "when: =a == None", "11:19: bare-word: 'None' is a field name; write `null`"),
    (
        "backticks around what is not JSON",
        "when: =code == `010`",
        "11:22: not-json: `010` is not JSON; text is written '010'",
    ),
    (
        "one = for a comparison",
        "when: =type = 'a'",
        "11:19: expression: bad expression: two values are compared with ==",
    ),
    ("and for &&", "when: =a and b", "11:16: expression: bad expression: write && instead of and"),
    ("& for &&", "when: =a & b", "11:16: expression: bad expression: write && instead of &"),
    ("not for !", "when: =not a", "11:18: expression: bad expression: write !(…) instead of not"),
    (
        "in for contains",
        "when: ='a' in tags",
        "11:18: expression: bad expression: write contains(list, x) instead of x in list",
    ),
    (
        "+ between texts",
        "attributes:\n  name: =first + last",
        '12:22: expression: bad expression: there is no "+" in expressions; write add(a, b), or for text'
        " join(' ', [a, b])",
    ),
    (
        "? : for a choice",
        "attributes:\n  x: =a ? b : c",
        "12:19: expression: bad expression: a choice is written if(condition, then, otherwise)",
    ),
    (
        "! before a path",
        "when: =!user.test",
        "11:14: negated-path: !user.test means (!user).test in JMESPath and is always null; write !(user.test)",
    ),
    (
        "a pipe behind a choice",
        "attributes:\n  x: =a || items[?x] | [0]",
        "12:28: loose-pipe: '|' applies to everything on its left; write first(a[?x]) or parentheses",
    ),
    (
        "an index behind a filter",
        "attributes:\n  x: =items[?main][0]",
        "12:25: index-after-filter: [0] after a filter applies to each item; write first(items[?main])",
    ),
    (
        "a slice that steps by nothing",
        "attributes:\n  x: =items[::0]",
        "12:21: slice-step: the step of a slice cannot be 0",
    ),
    (
        "a bad regular expression",
        "when: =regex_match(email, '(a')",
        "11:33: bad-regex: bad regular expression '(a': missing )",
    ),
    (
        "a regular expression that looks ahead",
        "when: =regex_match(email, 'a(?=b)')",
        "11:33: bad-regex: bad regular expression 'a(?=b)': look-ahead (?=…) is not available here; match"
        " what follows too, and put what you want in a group",
    ),
    (
        "index() without each",
        "attributes:\n  x: =index()",
        "12:13: index-outside-each: index() is known only in a call that has each",
    ),
    (
        "a variable that is not there",
        "attributes: {x: =var('plam')}",
        "11:28: unknown-variable: there is no variable 'plam' under let",
    ),
    (
        "a colon and a blank in an expression",
        "attributes:\n  items: =items[].{sku: sku}",
        '12:29: yaml: an expression that contains ": " must be quoted, or written {sku:sku}',
    ),
    (
        "a colon and a blank in an argument",
        "attributes:\n  a: =map(&{sku: sku}, items)",
        '12:22: yaml: an expression that contains ": " must be quoted, or written {sku:sku}',
    ),
    (
        "a comma inside { }, in brackets",
        "attributes: {name: =join(' ', [a, b]), x: 1}",
        "11:37: unquoted-expression: an expression with a comma inside { } must be quoted",
    ),
    (
        "a comma inside { }",
        "attributes: {name: =not_null(a, b)}",
        "11:39: unquoted-expression: 'b)' is not a key: an expression with a comma inside { } must be quoted",
    ),
    (
        "a # in an expression",
        "when: =order == 'a #1'",
        '11:23: expression: bad expression: \' is opened here and never closed; if the text contains " #",'
        " write the expression as a block (key: >-)",
    ),
    (
        "a backslash in double quotes",
        "attributes:\n  x: \"=regex_match(a, '\\d+')\"",
        "12:30: yaml: in double quotes a backslash starts an escape; use single quotes or a block (key: >-)",
    ),
    ("a ! that YAML takes for a tag", "when: !(test)", '11:13: yaml-tag: "!" starts a YAML tag; write =!(…)'),
    (
        "an @ that YAML does not take",
        "each: @",
        '11:13: yaml: a text cannot start with "@"; an expression is written =@',
    ),
    (
        "a * that YAML takes for an alias",
        "events:\n  *.created:\n    - {call: destroy, id: =id}\n",
        '7:3: yaml: "*" starts a YAML alias; if text is meant, quote it, as in  "*.created":',
    ),
    ("a tab", "events:\n  a:\n\t- call: destroy\n", "8:1: yaml: a tab is used for indentation; use spaces"),
    (
        "a blank that only looks like one",
        "events:\n\xa0 a: []\n",
        "7:1: yaml: this line starts with U+00A0, which only looks like a space; type the spaces again",
    ),
    (
        "a colon without a blank",
        "events:\n  a:\n    - call: destroy\n      id:=id\n",
        '9:7: yaml: this line has no "key: "; check its indentation',
    ),
    (
        "a line that is indented too little",
        "events:\n  a:\n    - call: destroy\n     id: =id\n",
        "9:6: yaml: this does not continue the lines above; check the indentation and the quotes",
    ),
    ("a duplicate key", "id: =other", "11:7: duplicate-key: duplicate key 'id' (first on line 9)"),
    (
        "a key without a value",
        "timestamp:",
        "11:17: empty-value: 'timestamp' has no value; write null if a null is meant, or remove it",
    ),
    (
        "a tilde for null",
        "attributes:\n  phone: ~",
        "12:16: empty-value: 'phone' has no value; write null if a null is meant, or remove it",
    ),
    (
        "a call with its keys below it",
        "events:\n  a:\n    - track:\n        id: =user.id\n        name: x\n",
        "8:7: call-not-flat: a call is written flat:  - call: track  and its keys below 'call', at the same"
        " indentation",
    ),
    (
        "a call that is not in a list",
        "events:\n  a:\n    call: destroy\n    id: =id\n",
        "8:5: calls: the calls of 'a' must be a list: each starts with '- call: …'",
    ),
    (
        "an event without calls",
        "events:\n  a:\n",
        "7:5: empty-value: 'a' has no calls; write [] to ignore it, or '- call: …' below it",
    ),
    (
        "a call about nobody",
        "events:\n  a:\n    - call: identify\n      attributes: {a: 1}\n",
        "8:7: no-identifier: 'identify' names nobody; give it one of id, email, cio_id, here or under 'defaults'",
    ),
    (
        "attributes that are an object out of the body",
        "attributes: =user",
        "11:19: attributes: 'attributes' lists attributes one by one; a whole object is taken by "
        " attributes_from: =user",
    ),
    (
        "a name that steers Customer.io out of an object",
        'attributes_from: "={recipient: email}"',
        "11:24: warning steering-attribute: 'recipient' is never taken out of 'attributes_from', for it"
        " steers Customer.io; write it under 'attributes'",
    ),
    (
        "event for events",
        "event:\n  a: []\n",
        "1:1: events: 'events' is missing; it says which calls each event type becomes\n"
        "6:1: unknown-key: unknown key 'event' at the top of the file; did you mean 'events'?",
    ),
    (
        "an event below the one that takes everything",
        'events:\n  "*":\n    - {call: destroy, id: =id}\n  a:\n    - {call: suppress, id: =id}\n',
        "9:3: warning shadowed-event: 'a' never gets here: '*' on line 7 comes first",
    ),
    (
        "event types without an event_type",
        "version: 1\nsource: shop\nverify: none\nevent_key: none\nevents:\n  a:\n    - {call: destroy, id: =id}\n",
        "6:3: warning no-event-type: 'a' never matches: without an 'event_type' only \"*\" does",
    ),
    (
        "an event_type without its =",
        "version: 1\nsource: shop\nverify: none\nevent_key: none\nevent_type: type\nevents:\n  a:\n"
        "    - {call: destroy, id: =id}\n",
        "5:13: not-an-expression: 'event_type' must be an expression; did you mean  event_type: =type",
    ),
    (
        "the secret itself in the file",
        "verify: {scheme: stripe, secret_env: whsec_abc+/=}",
        "3:38: secret-env: 'secret_env' must name an environment variable; a secret never stands in a mapping file",
    ),
    (
        "a misspelt scheme",
        "verify: {scheme: strpe, secret_env: A}",
        "3:18: scheme: unknown scheme 'strpe'; did you mean 'stripe'?",
    ),
    (
        "the keys of a scheme beside its name",
        "verify: {scheme: hmac, header: X-Signature, secret_env: A}",
        "3:18: scheme: the scheme 'hmac' does not know where to look; write it as an object and add"
        " `header`, the name of the header that the sender uses\n"
        "3:24: unknown-key: unknown key 'header' in 'verify'; a scheme of your own is written  scheme: {…}",
    ),
    (
        "a kind of scheme without the header",
        "verify: {scheme: hmac, secret_env: A}",
        "3:18: scheme: the scheme 'hmac' does not know where to look; write it as an object and add"
        " `header`, the name of the header that the sender uses",
    ),
    (
        "a scheme with the header as the place",
        "verify: {scheme: {kind: token, at: header.X-Token}, secret_env: A}",
        "3:32: scheme: 'at' must be path, query.NAME or body.PATH, such as query.token; a header is `header`",
    ),
    (
        "two places for one token",
        "verify: {scheme: {kind: token, header: X-Token, at: query.token}, secret_env: A}",
        "3:49: scheme: the signature stands in a `header`, or `at` another place; give one",
    ),
    (
        "a scheme that is code taken for a kind",
        "verify: {scheme: {kind: twilio}, secret_env: A}",
        "3:19: scheme: 'twilio' is a scheme of the table; write  base: twilio",
    ),
    (
        "a signature that leaves the body out",
        "verify: {scheme: {kind: hmac, header: X-S, signed: '{url}'}, secret_env: A}",
        "3:44: scheme: 'signed' leaves the body out, so anybody could change it; add {body}",
    ),
    (
        "a field of the body taken for all of it",
        "verify: {scheme: {kind: hmac, header: X-S, signed: '{body.data}'}, secret_env: A}",
        "3:44: scheme: 'signed' leaves the body out, so anybody could change it; add {body}",
    ),
    (
        "the secret in what an HMAC signs",
        "verify: {scheme: {kind: hmac, header: X-S, signed: '{secret}{body}'}, secret_env: A}",
        "3:44: scheme: {secret} is for a scheme of kind digest; leave it out",
    ),
    (
        "a hash without a secret",
        "verify: {scheme: {kind: digest, header: X-S, signed: '{body}'}, secret_env: A}",
        "3:46: scheme: a digest proves nothing without the secret; add {secret}",
    ),
    (
        "a misspelt variable of a template",
        "verify: {scheme: {kind: hmac, header: X-S, signed: '{uri}{body}'}, secret_env: A}",
        "3:44: scheme: unknown variable {uri}; did you mean 'url'?",
    ),
    (
        "a time that is not signed",
        "verify: {scheme: {kind: hmac, header: X-S, timestamp: {header: X-T}}, secret_env: A}",
        "3:18: scheme: the timestamp is not signed; add {ts} to 'signed'",
    ),
    (
        "a list by position that has names too",
        "verify: {scheme: {base: stripe, positional: true}, secret_env: A}",
        "3:33: scheme: the items of a list have names, of which `key` is one, or are `positional`; not both",
    ),
    (
        "a network with bits beyond its mask",
        "verify: {scheme: github, secret_env: A, networks: [10.0.0.1/8]}",
        "3:52: networks: '10.0.0.1/8' names one address of a network; did you mean 10.0.0.0/8?",
    ),
    (
        "the name of a host as a network",
        "verify: {scheme: github, secret_env: A, networks: hooks.example.com}",
        "3:51: networks: 'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8",
    ),
    (
        "a misspelt list of networks",
        "verify: {scheme: github, secret_env: A, network: 10.0.0.0/8}",
        "3:41: unknown-key: unknown key 'network' in 'verify'; did you mean 'networks'?",
    ),
    (
        "a sender that shows a verify token, without one",
        "verify: {scheme: meta, secret_env: A}",
        "3:9: warning verify-token: the sender (meta) shows a verify token when the webhook is set up; name"
        " the variable that holds yours:  verify_token_env: VERIFY_TOKEN",
    ),
    (
        "a verify token for a sender that shows none",
        "verify: {scheme: github, secret_env: A, verify_token_env: B}",
        "3:59: verify-token: the scheme 'github' has no verify token; remove 'verify_token_env'",
    ),
    (
        "the verify token itself in the file",
        "verify: {scheme: meta, secret_env: A, verify_token_env: my-token}",
        "3:57: secret-env: 'verify_token_env' must name an environment variable; a secret never stands in a"
        " mapping file",
    ),
    ("a region that there is not", "region: europe", "11:15: region: 'region' must be us or eu"),
    (
        "an expression where text is fixed",
        "connection: =x",
        "11:19: not-literal: 'connection' must be literal text: it is fixed when the file is read, so it"
        " cannot be an expression",
    ),
    (
        "a path with /api in it",
        "events:\n  a:\n    - call: request\n      path: /api/v1/x\n",
        "9:13: path: 'path' is taken below /api already: write /v1/… instead of /api/v1/…",
    ),
    (
        "a merge of ids that are no objects",
        "events:\n  a:\n    - call: merge\n      into: =a\n      from: {id: =b}\n",
        "9:13: person: 'into' must be an object with one identifier, e.g.  into: {id: =user.id}",
    ),
]


def file_with(text: str) -> str:
    """The whole file of a mistake."""
    if text.startswith("version"):
        return text
    if text.startswith("verify"):
        return HEAD.replace("verify: none", text) + "events: {}\n"
    if text.startswith("event"):
        return HEAD + text
    return HEAD + TRACK + indent(text, "      ") + "\n"


def messages(text: str) -> list[str]:
    """The messages as the checker prints them, after the name of the file."""
    return [line if ": warning " in line else line.replace(": ", ": error ", 1) for line in text.splitlines()]


@pytest.mark.parametrize(("text", "expected"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES])
def test_a_mistake_is_reported_with_its_place_and_the_fix(text: str, expected: str) -> None:
    try:
        _, problems = parse(file_with(text), "f")
    except MappingError as error:
        problems = error.problems
    assert [str(problem).removeprefix("f:") for problem in problems] == messages(expected)


def test_all_mistakes_of_a_folder_are_reported_at_once(tmp_path: Path) -> None:
    for number, (_, text, _) in enumerate(MISTAKES):
        file = file_with(text).replace("source: shop", f"source: m{number:02}")
        (tmp_path / f"m{number:02}.yaml").write_text(file)
    result = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert result.exit_code == 1
    for number, (_, _, expected) in enumerate(MISTAKES):
        for message in messages(expected):
            assert f"m{number:02}.yaml:{message}\n" in result.output
