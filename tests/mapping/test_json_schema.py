"""The JSON Schema of the language: it accepts whatever the checker accepts, and refuses what is simple to see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
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


#: Whole files by the kind of a line of schema_cases.txt; %s stands for what the line says.
WHOLE = {
    "file": "%s\n",
    "head": HEAD + "%s\n",
    "line": HEAD + "%s\nevents: {}\n",
    "call": HEAD + "events:\n  a:\n    - {call: %s}\n",
    "attribute": HEAD + "events:\n  a:\n    - {call: identify, id: =id, attributes: {a: %s}}\n",
    "verify": "version: 1\nsource: shop\nevents: {}\nverify: %s\n",
    "scheme": "version: 1\nsource: shop\nevents: {}\nverify: {secret_env: S, scheme: {%s}}\n",
    "test": HEAD + "events: {}\ntests:\n  %s\n",
}


def schema_cases() -> dict[str, list[str]]:
    """Return the files that are good, bad, and refused by the checker alone, the last by the code of the error."""
    files: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("schema_cases.txt").read_text(encoding="utf-8").split("\n"):
        if line.startswith("== "):
            section = files.setdefault(line.strip("= "), [])
        elif line and not line.startswith("#"):
            kind, _, part = line.partition(" ")
            section.append(WHOLE[kind] % part.strip().replace("\\n", "\n"))
    return files


FILES = schema_cases()
GOOD, BAD = FILES["good"], FILES["bad"]
ONLY_THE_CHECKER_SEES = {code: texts for code, texts in FILES.items() if code not in ("good", "bad")}


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
    "handshakes": "handshakes: [{method: GET, text: query.challenge}]",
    "json_field": "json_field: data.json",
}


def test_each_key_of_a_scheme_has_an_example() -> None:
    assert set(BY_KEY) == {key for keys in signatures.KEYS.values() for key in keys}
    assert set(BY_KEY) == {field.name for field in fields(signatures.Scheme)} - {
        "name",
        "kind",
        *read_scheme.TABLE_ONLY,
    }


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
    text = WHOLE["verify"] % f"{{{proof}scheme: {{{start}: {kind}, {header}{example}}}}}"
    assert (errors(text) == set()) == (key in keys)
    assert accepted(text) or key not in keys


@pytest.mark.parametrize("name", signatures.schemes())
def test_a_scheme_of_the_table_is_accepted_by_the_schema_where_the_checker_accepts_it(name: str) -> None:
    for scheme in (name, f"{{base: {name}}}", f"{{base: {name}, at: path}}"):
        for rest in ("", ", secret_env: S", ", secret_env: S, verify_token_env: T"):
            text = WHOLE["verify"] % f"{{scheme: {scheme}{rest}}}"
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
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from schemas_below(part)
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
