"""docs/mappings.md matches the code: its tables are generated from it. Its examples: tests/test_documents.py."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from gateway import verify as signatures
from gateway.errors import MappingError
from gateway.mapping.compiler import parse
from gateway.mapping.expressions import compile_expression
from gateway.mapping.model import MappingFile
from gateway.verify.scheme_keys import HANDSHAKE_KEYS, TEMPLATE_VARIABLES
from tests.support.docs_reference import DOCUMENT, with_parts

TEXT = DOCUMENT.read_text(encoding="utf-8")
PROOFS = re.findall(r"\| `(verify: [^`]*)` \|", TEXT)


def test_the_generated_parts_are_those_of_the_code() -> None:
    assert with_parts(TEXT) == TEXT, "run: python -m tests.support.docs_reference"


def of_proof(verify: str) -> MappingFile:
    text = f"version: 1\nsource: a\n{verify}\nevent_key: none\nevent_type: =type\nevents: {{}}\n"
    mapping, warnings = parse(text, "a.yaml")
    assert warnings == []
    return mapping


@pytest.mark.parametrize("verify", PROOFS)
def test_an_example_of_verify_compiles_without_warnings(verify: str) -> None:
    assert of_proof(verify).verify.scheme.name


def test_every_key_and_kind_of_a_scheme_is_explained() -> None:
    chapter = TEXT.partition("### A scheme of your own")[2].partition("\n## ")[0]
    kinds, keys, variables, of_handshakes = (
        {name for row in table.split("\n") for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
        for table in re.findall(r"\|---\|---.*\|\n((?:\|.*\n)+)", chapter)
    )
    assert kinds == set(get_args(signatures.Kind))
    assert keys == {key for known in signatures.KEYS.values() for key in known}
    assert variables == {f"{{{name}}}" for name in TEMPLATE_VARIABLES}
    assert of_handshakes == set(HANDSHAKE_KEYS)


def test_the_expressions_in_the_table_compile() -> None:
    table = TEXT.partition("| to get | write |")[2].partition("\n\n")[0].replace("\\|", "|").replace("``10``", "`10`")
    expressions = re.findall(r"(?<!`)`(=[^`]*(?:`10`[^`]*)?)`(?!`)", table)
    assert len(expressions) >= 9
    for expression in expressions:
        compile_expression(expression.removeprefix("="))


def test_an_expression_that_needs_quotes_is_refused_without() -> None:
    with pytest.raises(MappingError, match="must be quoted"):
        parse("version: 1\nsource: a\nverify: none\nlet: {name: =join(' ', [first, last])}\nevents: {}\n", "a.yaml")
