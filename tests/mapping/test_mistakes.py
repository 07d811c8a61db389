"""The mistakes that people make in mapping files, each with what they are told: the place and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.errors import MappingError
from gateway.mapping.compiler import parse

HEAD = """\
version: 1
source: shop
verify: none
event_key: none
event_type: =type
"""

#: What was done wrong, the file below HEAD (or the whole of it), and what is said.
MISTAKES: list[tuple[str, str, list[str]]] = [
    (
        "an expression without its =",
        """\
events:
  a:
    - call: track
      id: user.id
      name: Paid
      when: =x
""",
        [
            "9:11: error not-an-expression: 'id' must be an expression; did you mean  id: =user.id",
        ],
    ),
    (
        "a number where an expression belongs",
        """\
events:
  a:
    - call: track
      id: 42
      name: Paid
      when: =x
""",
        [
            "9:11: error not-an-expression: 'id' must be an expression; a constant is written  id: =`42`",
        ],
    ),
    (
        "a path without its = among the attributes",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        plan: data.plan
""",
        [
            "12:15: warning looks-like-a-path: 'data.plan' is literal text but looks like a path; write "
            "=data.plan, or {literal: data.plan}",
        ],
    ),
    (
        "the placeholders of another tool in a text",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        greeting: Hello {{ user.name }}
""",
        [
            "12:19: warning looks-like-a-template: this is literal text, in which nothing is replaced; "
            "write an expression: =format('Hello {}', user.name)",
        ],
    ),
    (
        "the placeholders of another tool around a path",
        """\
events:
  a:
    - call: track
      id: "{{ user.id }}"
      name: Paid
      when: =x
""",
        [
            "9:11: error not-an-expression: 'id' must be an expression; did you mean  id: =user.id",
        ],
    ),
    (
        "a path as JSONPath writes it",
        """\
events:
  a:
    - call: track
      id: =$.user.id
      name: Paid
      when: =x
""",
        [
            "9:12: error expression: bad expression: names start at the body by themselves, without $",
        ],
    ),
    (
        "a path as jq writes it",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =.user.x
""",
        [
            "11:14: error expression: bad expression: names start at the body by themselves, without a dot",
        ],
    ),
    (
        "a dot too many",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =user..x
""",
        [
            "11:19: error expression: bad expression: . does not fit here",
        ],
    ),
    (
        "a path that ends with a dot",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =user.
""",
        [
            "11:19: error expression: bad expression: it ends too early",
        ],
    ),
    (
        "a misspelt key",
        """\
events:
  a:
    - call: track
      id: =user.id
      nmae: Paid
""",
        [
            "8:7: error missing-key: 'track' needs a 'name', e.g.  name: Invoice Paid",
            "10:7: error unknown-key: unknown key 'nmae' in call 'track'; did you mean 'name'?",
        ],
    ),
    (
        "a misspelt call",
        """\
events:
  a:
    - call: trak
      id: =user.id
      name: x
""",
        [
            "8:13: error unknown-call: unknown call 'trak'; did you mean 'track'?",
        ],
    ),
    (
        "a misspelt function",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        email: =lowr(email)
""",
        [
            "12:17: error unknown-function: unknown function lowr(); did you mean lower()?",
        ],
    ),
    (
        "a function of another language",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =len(items) > `0`
""",
        [
            "11:14: error unknown-function: unknown function len(); did you mean length()?",
        ],
    ),
    (
        "an argument that is missing",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        tags: =split(tags)
""",
        [
            "12:16: error arity: split() takes 2 arguments, got 1",
        ],
    ),
    (
        "an if without its otherwise",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =if(a, 'yes')
""",
        [
            "12:13: error arity: if() takes 3 arguments, got 2",
        ],
    ),
    (
        "a field name with a hyphen",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =user.my-key
""",
        [
            "12:20: error unquoted-name: bad expression: a field name with '-' needs double quotes: user.\"my-key\"",
        ],
    ),
    (
        "a field name that starts with a digit",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =user.2fa
""",
        [
            "12:18: error unquoted-name: bad expression: a field name that starts with a digit needs "
            'double quotes: user."2fa"',
        ],
    ),
    (
        "a field name with a blank",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =user.first name
""",
        [
            '12:24: error expression: bad expression: a field name with a blank needs double quotes: user."first name"',
        ],
    ),
    (
        "a field name in single quotes",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =user.'first name'
""",
        [
            '12:18: error expression: bad expression: a field name is written in double quotes: user."first name"',
        ],
    ),
    (
        "an index behind a dot",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =items.0.sku
""",
        [
            "12:19: error expression: bad expression: an index is written in brackets: items[0]",
        ],
    ),
    (
        "an index in brackets behind a dot",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =items.[0]
""",
        [
            "12:20: error expression: bad expression: an index has no dot before it: a[0]",
        ],
    ),
    (
        "text in double quotes",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =status == "paid"
""",
        [
            "11:24: error quoted-field: \"paid\" after == is a field name; text is written 'paid'",
        ],
    ),
    (
        "typographic quotes",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =type == ‘a’
""",
        [
            "11:22: error expression: bad expression: text is written in straight quotes: 'paid'",
        ],
    ),
    (
        "a quote that is never closed",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =type == 'a
""",
        [
            "11:22: error expression: bad expression: ' is opened here and never closed; if the text "
            'contains " #", write the expression as a block (key: >-)',
        ],
    ),
    (
        "a number without backticks",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =total > 5
""",
        [
            "11:22: error bare-number: numbers in expressions are written in backticks: `5`",
        ],
    ),
    (
        "true without backticks",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =live == true
""",
        [
            "11:22: error bare-word: 'true' is a field name; write `true`",
        ],
    ),
    (
        "None for null",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =a == None
""",
        [
            "11:19: error bare-word: 'None' is a field name; write `null`",
        ],
    ),
    (
        "backticks around what is not JSON",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =code == `010`
""",
        [
            "11:22: error not-json: `010` is not JSON; text is written '010'",
        ],
    ),
    (
        "one = for a comparison",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =type = 'a'
""",
        [
            "11:19: error expression: bad expression: two values are compared with ==",
        ],
    ),
    (
        "and for &&",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =a and b
""",
        [
            "11:16: error expression: bad expression: write && instead of and",
        ],
    ),
    (
        "& for &&",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =a & b
""",
        [
            "11:16: error expression: bad expression: write && instead of &",
        ],
    ),
    (
        "not for !",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =not a
""",
        [
            "11:18: error expression: bad expression: write !(…) instead of not",
        ],
    ),
    (
        "in for contains",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: ='a' in tags
""",
        [
            "11:18: error expression: bad expression: write contains(list, x) instead of x in list",
        ],
    ),
    (
        "+ between texts",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        name: =first + last
""",
        [
            '12:22: error expression: bad expression: there is no "+" in expressions; write add(a, b), or'
            " for text join(' ', [a, b])",
        ],
    ),
    (
        "? : for a choice",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =a ? b : c
""",
        [
            "12:19: error expression: bad expression: a choice is written if(condition, then, otherwise)",
        ],
    ),
    (
        "! before a path",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =!user.test
""",
        [
            "11:14: error negated-path: !user.test means (!user).test in JMESPath and is always null; "
            "write !(user.test)",
        ],
    ),
    (
        "a pipe behind a choice",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =a || items[?x] | [0]
""",
        [
            "12:28: error loose-pipe: '|' applies to everything on its left; write first(a[?x]) or parentheses",
        ],
    ),
    (
        "an index behind a filter",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =items[?main][0]
""",
        [
            "12:25: error index-after-filter: [0] after a filter applies to each item; write first(items[?main])",
        ],
    ),
    (
        "a slice that steps by nothing",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =items[::0]
""",
        [
            "12:21: error slice-step: the step of a slice cannot be 0",
        ],
    ),
    (
        "a bad regular expression",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =regex_match(email, '(a')
""",
        [
            "11:33: error bad-regex: bad regular expression '(a': missing )",
        ],
    ),
    (
        "a regular expression that looks ahead",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =regex_match(email, 'a(?=b)')
""",
        [
            "11:33: error bad-regex: bad regular expression 'a(?=b)': look-ahead (?=…) is not available "
            "here; match what follows too, and put what you want in a group",
        ],
    ),
    (
        "index() without each",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: =index()
""",
        [
            "12:13: error index-outside-each: index() is known only in a call that has each",
        ],
    ),
    (
        "a variable that is not there",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes: {x: =var('plam')}
""",
        [
            "11:28: error unknown-variable: there is no variable 'plam' under let",
        ],
    ),
    (
        "a colon and a blank in an expression",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        items: =items[].{sku: sku}
""",
        [
            '12:29: error yaml: an expression that contains ": " must be quoted, or written {sku:sku}',
        ],
    ),
    (
        "a comma inside { }, in brackets",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes: {name: =join(' ', [a, b]), x: 1}
""",
        [
            "11:37: error unquoted-expression: an expression with a comma inside { } must be quoted",
        ],
    ),
    (
        "a comma inside { }",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes: {name: =not_null(a, b)}
""",
        [
            "11:39: error unquoted-expression: 'b)' is not a key: an expression with a comma inside { } must be quoted",
        ],
    ),
    (
        "a # in an expression",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: =order == 'a #1'
""",
        [
            "11:23: error expression: bad expression: ' is opened here and never closed; if the text "
            'contains " #", write the expression as a block (key: >-)',
        ],
    ),
    (
        "a backslash in double quotes",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        x: "=regex_match(a, '\\d+')"
""",
        [
            "12:30: error yaml: in double quotes a backslash starts an escape; use single quotes or a block (key: >-)",
        ],
    ),
    (
        "a ! that YAML takes for a tag",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      when: !(test)
""",
        [
            '11:13: error yaml-tag: "!" starts a YAML tag; write =!(…)',
        ],
    ),
    (
        "an @ that YAML does not take",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      each: @
""",
        [
            '11:13: error yaml: a text cannot start with "@"; an expression is written =@',
        ],
    ),
    (
        "a * that YAML takes for an alias",
        """\
events:
  *.created:
    - {call: destroy, id: =id}
""",
        [
            '7:3: error yaml: "*" starts a YAML alias; if text is meant, quote it, as in  "*.created":',
        ],
    ),
    (
        "a tab",
        "events:\n  a:\n\t- call: destroy\n",
        [
            "8:1: error yaml: a tab is used for indentation; use spaces",
        ],
    ),
    (
        "a blank that only looks like one",
        "events:\n\xa0 a: []\n",
        [
            "7:1: error yaml: this line starts with U+00A0, which only looks like a space; type the spaces again",
        ],
    ),
    (
        "a colon without a blank",
        """\
events:
  a:
    - call: destroy
      id:=id
""",
        [
            '9:7: error yaml: this line has no "key: "; check its indentation',
        ],
    ),
    (
        "a line that is indented too little",
        """\
events:
  a:
    - call: destroy
     id: =id
""",
        [
            "9:6: error yaml: this does not continue the lines above; check the indentation and the quotes",
        ],
    ),
    (
        "a duplicate key",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      id: =other
""",
        [
            "11:7: error duplicate-key: duplicate key 'id' (first on line 9)",
        ],
    ),
    (
        "a key without a value",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      timestamp:
""",
        [
            "11:17: error empty-value: 'timestamp' has no value; write null if a null is meant, or remove it",
        ],
    ),
    (
        "a tilde for null",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes:
        phone: ~
""",
        [
            "12:16: error empty-value: 'phone' has no value; write null if a null is meant, or remove it",
        ],
    ),
    (
        "a call with its keys below it",
        """\
events:
  a:
    - track:
        id: =user.id
        name: x
""",
        [
            "8:7: error call-not-flat: a call is written flat:  - call: track  and its keys below 'call',"
            " at the same indentation",
        ],
    ),
    (
        "a call that is not in a list",
        """\
events:
  a:
    call: destroy
    id: =id
""",
        [
            "8:5: error calls: the calls of 'a' must be a list: each starts with '- call: …'",
        ],
    ),
    (
        "an event without calls",
        """\
events:
  a:
""",
        [
            "7:5: error empty-value: 'a' has no calls; write [] to ignore it, or '- call: …' below it",
        ],
    ),
    (
        "a call about nobody",
        """\
events:
  a:
    - call: identify
      attributes: {a: 1}
""",
        [
            "8:7: error no-identifier: 'identify' names nobody; give it one of id, email, cio_id, here or"
            " under 'defaults'",
        ],
    ),
    (
        "attributes that are an object out of the body",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes: =user
""",
        [
            "11:19: error attributes: 'attributes' lists attributes one by one; a whole object is taken "
            "by  attributes_from: =user",
        ],
    ),
    (
        "a name that steers Customer.io out of an object",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      attributes_from: "={recipient: email}"
""",
        [
            "11:24: warning steering-attribute: 'recipient' is never taken out of 'attributes_from', for "
            "it steers Customer.io; write it under 'attributes'",
        ],
    ),
    (
        "event for events",
        """\
event:
  a: []
""",
        [
            "1:1: error events: 'events' is missing; it says which calls each event type becomes",
            "6:1: error unknown-key: unknown key 'event' at the top of the file; did you mean 'events'?",
        ],
    ),
    (
        "an event below the one that takes everything",
        """\
events:
  "*":
    - {call: destroy, id: =id}
  a:
    - {call: suppress, id: =id}
""",
        [
            "9:3: warning shadowed-event: 'a' never gets here: '*' on line 7 comes first",
        ],
    ),
    (
        "event types without an event_type",
        """\
version: 1
source: shop
verify: none
event_key: none
events:
  a:
    - {call: destroy, id: =id}
""",
        [
            "6:3: warning no-event-type: 'a' never matches: without an 'event_type' only \"*\" does",
        ],
    ),
    (
        "an event_type without its =",
        """\
version: 1
source: shop
verify: none
event_key: none
event_type: type
events:
  a:
    - {call: destroy, id: =id}
""",
        [
            "5:13: error not-an-expression: 'event_type' must be an expression; did you mean  event_type: =type",
        ],
    ),
    (
        "the secret itself in the file",
        """\
version: 1
source: shop
verify: {scheme: stripe, secret_env: whsec_abc+/=}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:38: error secret-env: 'secret_env' must name an environment variable; a secret never "
            "stands in a mapping file",
        ],
    ),
    (
        "a misspelt scheme",
        """\
version: 1
source: shop
verify: {scheme: strpe, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:18: error scheme: unknown scheme 'strpe'; did you mean 'stripe'?",
        ],
    ),
    (
        "the keys of a scheme beside its name",
        """\
version: 1
source: shop
verify: {scheme: hmac, header: X-Signature, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:18: error scheme: the scheme 'hmac' does not know where to look; write it as an "
            "object and add `header`, the name of the header that the sender uses",
            "3:24: error unknown-key: unknown key 'header' in 'verify'; a scheme of your own is written  scheme: {…}",
        ],
    ),
    (
        "a kind of scheme without the header",
        """\
version: 1
source: shop
verify: {scheme: hmac, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:18: error scheme: the scheme 'hmac' does not know where to look; write it as an "
            "object and add `header`, the name of the header that the sender uses",
        ],
    ),
    (
        "a scheme with the header as the place",
        """\
version: 1
source: shop
verify: {scheme: {kind: token, at: header.X-Token}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:32: error scheme: 'at' must be path, query.NAME or body.PATH, such as query.token; a header is `header`",
        ],
    ),
    (
        "two places for one token",
        """\
version: 1
source: shop
verify: {scheme: {kind: token, header: X-Token, at: query.token}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:49: error scheme: the signature stands in a `header`, or `at` another place; give one",
        ],
    ),
    (
        "a scheme that is code taken for a kind",
        """\
version: 1
source: shop
verify: {scheme: {kind: twilio}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:19: error scheme: 'twilio' is a scheme of the table; write  base: twilio",
        ],
    ),
    (
        "a signature that leaves the body out",
        """\
version: 1
source: shop
verify: {scheme: {kind: hmac, header: X-S, signed: '{url}'}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:44: error scheme: 'signed' leaves the body out, so anybody could change it; add {body}",
        ],
    ),
    (
        "a field of the body taken for all of it",
        """\
version: 1
source: shop
verify: {scheme: {kind: hmac, header: X-S, signed: '{body.data}'}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:44: error scheme: 'signed' leaves the body out, so anybody could change it; add {body}",
        ],
    ),
    (
        "the secret in what an HMAC signs",
        """\
version: 1
source: shop
verify: {scheme: {kind: hmac, header: X-S, signed: '{secret}{body}'}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:44: error scheme: {secret} is for a scheme of kind digest; leave it out",
        ],
    ),
    (
        "a hash without a secret",
        """\
version: 1
source: shop
verify: {scheme: {kind: digest, header: X-S, signed: '{body}'}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:46: error scheme: a digest proves nothing without the secret; add {secret}",
        ],
    ),
    (
        "a misspelt variable of a template",
        """\
version: 1
source: shop
verify: {scheme: {kind: hmac, header: X-S, signed: '{uri}{body}'}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:44: error scheme: unknown variable {uri}; did you mean 'url'?",
        ],
    ),
    (
        "a time that is not signed",
        """\
version: 1
source: shop
verify: {scheme: {kind: hmac, header: X-S, timestamp: {header: X-T}}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:18: error scheme: the timestamp is not signed; add {ts} to 'signed'",
        ],
    ),
    (
        "a list by position that has names too",
        """\
version: 1
source: shop
verify: {scheme: {base: stripe, positional: true}, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:33: error scheme: the items of a list have names, of which `key` is one, or are `positional`; not both",
        ],
    ),
    (
        "a network with bits beyond its mask",
        """\
version: 1
source: shop
verify: {scheme: github, secret_env: A, networks: [10.0.0.1/8]}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:52: error networks: '10.0.0.1/8' names one address of a network; did you mean 10.0.0.0/8?",
        ],
    ),
    (
        "the name of a host as a network",
        """\
version: 1
source: shop
verify: {scheme: github, secret_env: A, networks: hooks.example.com}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:51: error networks: 'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8",
        ],
    ),
    (
        "a misspelt list of networks",
        """\
version: 1
source: shop
verify: {scheme: github, secret_env: A, network: 10.0.0.0/8}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:41: error unknown-key: unknown key 'network' in 'verify'; did you mean 'networks'?",
        ],
    ),
    (
        "a sender that shows a verify token, without one",
        """\
version: 1
source: shop
verify: {scheme: meta, secret_env: A}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:9: warning verify-token: the sender (meta) shows a verify token when the webhook is "
            "set up; name the variable that holds yours:  verify_token_env: VERIFY_TOKEN",
        ],
    ),
    (
        "a verify token for a sender that shows none",
        """\
version: 1
source: shop
verify: {scheme: github, secret_env: A, verify_token_env: B}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:59: error verify-token: the scheme 'github' has no verify token; remove 'verify_token_env'",
        ],
    ),
    (
        "the verify token itself in the file",
        """\
version: 1
source: shop
verify: {scheme: meta, secret_env: A, verify_token_env: my-token}
event_key: none
event_type: =type
events: {}
""",
        [
            "3:57: error secret-env: 'verify_token_env' must name an environment variable; a secret "
            "never stands in a mapping file",
        ],
    ),
    (
        "a region that there is not",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      region: europe
""",
        [
            "11:15: error region: 'region' must be us or eu",
        ],
    ),
    (
        "an expression where text is fixed",
        """\
events:
  a:
    - call: track
      id: =user.id
      name: Paid
      connection: =x
""",
        [
            "11:19: error not-literal: 'connection' must be literal text: it is fixed when the file is "
            "read, so it cannot be an expression",
        ],
    ),
    (
        "a path with /api in it",
        """\
events:
  a:
    - call: request
      path: /api/v1/x
""",
        [
            "9:13: error path: 'path' is taken below /api already: write /v1/… instead of /api/v1/…",
        ],
    ),
    (
        "a merge of ids that are no objects",
        """\
events:
  a:
    - call: merge
      into: =a
      from: {id: =b}
""",
        [
            "9:13: error person: 'into' must be an object with one identifier, e.g.  into: {id: =user.id}",
        ],
    ),
]


def whole(text: str) -> str:
    return text if text.startswith("version") else HEAD + text


@pytest.mark.parametrize(("text", "said"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES])
def test_a_mistake_is_told_with_its_place_and_the_fix(text: str, said: list[str]) -> None:
    try:
        _, problems = parse(whole(text), "f")
    except MappingError as error:
        problems = error.problems
    assert [str(problem).removeprefix("f:") for problem in problems] == said


def test_a_folder_with_a_file_for_each_mistake_is_told_of_all_of_them_at_once(tmp_path: Path) -> None:
    for number, (_, text, _) in enumerate(MISTAKES):
        (tmp_path / f"m{number:02}.yaml").write_text(whole(text).replace("source: shop", f"source: m{number:02}"))
    result = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert result.exit_code == 1
    for number, (_, _, said) in enumerate(MISTAKES):
        for each in said:
            assert f"m{number:02}.yaml:{each}\n" in result.output
