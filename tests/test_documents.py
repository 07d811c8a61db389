"""Every YAML block and every command of every document works, or stands below with the reason why it is not run."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from gateway.cli import main
from gateway.mapping.compiler.mapping_file import TOP_KEYS
from gateway.mapping.model import SPECS
from gateway.mapping.yaml_nodes import plain, read
from gateway.store.tables import deliveries
from tests.support.databases import opened
from tests.support.trackapi import TrackAPI

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks_of(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield Block(document.name, text.count("\n", 0, match.start()) + 1, match[1], match[2])


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]


def test_a_block_is_of_a_language_that_is_tested() -> None:
    # Without a language: pictures and output. Python: tests/customerio/test_client_docs.py.
    assert {block.language for block in BLOCKS} == {"", "yaml", "sh", "python"}
    assert {block.document for block in BLOCKS if block.language == "python"} == {"client.md"}


# YAML

#: YAML that is no mapping and no part of one: document and first line, with the reason.
NO_MAPPINGS: dict[tuple[str, str], str] = {}
#: What a part of a mapping needs around it. A key that the part has itself replaces that of the frame.
FRAME = {
    "version": "version: 1\n",
    "source": "source: shop\n",
    "verify": "verify: none\n",
    "event_type": "event_type: =type\n",
    "event_key": "event_key: none\n",
    "events": "events: {}\n",
}


def whole_file(part: str) -> str:
    """A whole mapping around a part of one: calls, keys of an identify call, event types, or keys at the top."""
    data = plain(read(part, "part"))
    if isinstance(data, dict) and data.keys() <= SPECS["identify"].keys.keys():
        return whole_file(f"- call: identify\n  id: =id\n{indent(part, '  ')}")
    if isinstance(data, list):
        return whole_file(f"events:\n  a:\n{indent(part, '    ')}")
    assert isinstance(data, dict), part
    if not data.keys() & {*TOP_KEYS}:
        return whole_file(f"events:\n{indent(part, '  ')}")
    return "".join(text for key, text in FRAME.items() if key not in data) + part


YAML = [
    block
    for block in BLOCKS
    if block.language == "yaml" and (block.document, block.text.split("\n")[0]) not in NO_MAPPINGS
]


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_mapping_passes_gateway_check(block: Block, tmp_path: Path) -> None:
    text = whole_file(block.text)
    file = tmp_path / "mapping.yaml"
    file.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(main, ["check", "--strict", str(file)])
    assert result.exit_code == 0, result.output
    if block.text.startswith("version"):
        assert "no tests" not in result.output, "a whole file shows how it is tested"


# Commands

#: Programs of others in the blocks, by the start of a command, with the reason why nothing runs them here.
OTHERS = {
    "python3 -m venv": "make does the same before the first test",
    "pip install": "make does the same before the first test; it needs the network",
    "pytest": "it runs this test",
    "curl": "tests/cli/test_cli.py posts the same bodies to the same command",
    "body=": "the body of such a curl",
    "make": "test_a_target_of_make_exists",
}
#: Commands of the gateway that are only parsed.
PARSED = {"gateway serve --dry-run": "runs until it is stopped; tests/cli/test_cli.py runs it"}
#: Commands that ask on a terminal, and are run with --yes.
ASKING = ("gateway deliveries retry 17 18", "gateway deliveries cancel --connection eu-prod --status parked")
SHELL = [block for block in BLOCKS if block.language == "sh"]


@dataclass(frozen=True)
class Command:
    """A command of a block; *stdin* is what an `echo` before it writes."""

    words: tuple[str, ...]
    stdin: str = ""

    def __str__(self) -> str:
        return " ".join(self.words)


def commands_in(text: str) -> Iterator[Command]:
    """The commands of a block. Variables that are set before a command are left out."""
    line = ""
    for part in text.splitlines():
        line += part.removesuffix("\\")
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # a quote that is closed on a later line
            line += "\n"
            continue
        if part.endswith("\\"):
            continue
        line = ""
        for command in split(words, "&&"):
            *before, last = split(command, "|")
            while re.fullmatch(r"[A-Z_]+=.*", last[0]):
                del last[0]
            last[0] = last[0].removeprefix(".venv/bin/")
            yield Command(tuple(last), stdin=before[0][1] if before else "")


def split(words: Sequence[str], separator: str) -> list[list[str]]:
    return [[*group] for is_one, group in groupby(words, separator.__eq__) if not is_one]


def parse(words: Sequence[str]) -> None:
    """Parse a command line as the gateway does. Raises click.UsageError."""
    command: click.Command = main
    context, rest = click.Context(main), list(words)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert name is not None
        assert found is not None
        command, parent = found, context
        context = click.Context(command, parent=parent, info_name=name)
    command.make_context(context.info_name, rest, parent=context.parent)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackAPI]:
    """A directory with what the documents speak of: a captured webhook, old payloads, mappings."""
    monkeypatch.chdir(tmp_path)
    mapping = next(block.text for block in YAML if block.document == "mappings.md")
    data: Any = plain(read(mapping, "shop.yaml"))
    captured = data["tests"][0]["body"]
    (tmp_path / "captured.json").write_text(json.dumps(captured))
    (tmp_path / "mappings").mkdir()
    for source, connection in (("stripe", "default"), ("eu-shop", "eu-prod")):
        head = f"source: {source}\nconnection: {connection}"
        (tmp_path / "mappings" / f"{source}.yaml").write_text(mapping.replace("source: shop", head))
    lines = []
    for number in range(20):
        changed = {"id": number, "user": {"id": number % 15}, "order": {**captured["order"], "id": number}}
        lines.append(json.dumps({**captured, **changed}))
    (tmp_path / "export.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with TrackAPI() as api:
        for prefix in ("CUSTOMERIO", "CUSTOMERIO_EU_PROD"):
            values = {"SITE_ID": "site", "API_KEY": "key", "BASE_URL": api.url}
            for name, value in values.items():
                monkeypatch.setenv(f"{prefix}_{name}", value)
        monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/gateway.db")
        monkeypatch.setenv("SHOP_TOKEN", "a-secret-of-the-shop")
        yield api


def run(*words: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, words, input=stdin)


def record_calls(directory: Path) -> None:
    """Record the old payloads, for two connections, and let some of the first fail."""
    assert run("migrate").exit_code == 0
    for source in ("stripe", "eu-shop"):
        assert run("ingest", source, "export.jsonl.gz").exit_code == 0
    failed = {"status": "failed", "reason": "HTTP 400: wrong", "settled_at": 1.0}
    with opened(f"sqlite:///{directory}/gateway.db") as database, database.transaction() as connection:
        connection.execute(update(deliveries).where(deliveries.c.id.between(11, 20)).values(**failed))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_commands_of_a_document_work_one_after_the_other(document: Path, shop: TrackAPI, tmp_path: Path) -> None:
    blocks = [block for block in SHELL if block.document == document.name]
    if document.name == "operating.md":
        record_calls(tmp_path)
    for block in blocks:
        for command in commands_in(block.text):
            if command.words[0] != "gateway":
                assert str(command).startswith(tuple(OTHERS)), f"{block}: {command}"
                continue
            parse(command.words[1:])
            if str(command) not in PARSED:
                yes = ["--yes"] if str(command) in ASKING else []
                result = run(*command.words[1:], *yes, stdin=command.stdin)
                assert result.exit_code == 0, f"{block}: {command}\n{result.output}"
    assert shop.refused == []


INLINE = [
    (document.name, code.replace("\\|", "|"))
    for document in DOCUMENTS
    for code in re.findall(r"`([^`\n]+)`", document.read_text(encoding="utf-8"))
]
_BEHIND = r"(events|deliveries) (list|show|replay|retry|cancel)\b"
USAGES = [
    (name, code if code.startswith("gateway ") else f"gateway {code}")
    for name, code in INLINE
    if re.match(rf"gateway (?!/)|{_BEHIND}", code)
]


@pytest.mark.parametrize(("document", "usage"), dict.fromkeys(USAGES), ids=str)
def test_a_command_in_a_sentence_or_table_exists_with_its_options(document: str, usage: str, shop: TrackAPI) -> None:
    words = shlex.split(usage.partition(" > ")[0])[1:]
    name, *rest = words
    context = click.Context(main)
    command = main.get_command(context, name)
    commands = [command]
    if isinstance(command, click.Group) and rest:
        commands = [command.get_command(context, name) for name in rest.pop(0).split("|")]
    for command in commands:
        assert command is not None, document
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word.strip("[]") for word in rest if word.strip("[").startswith("-")} <= options
    if rest and not re.search(r"[\[…<]|\b[A-Z]{4,}\b", usage):
        parse(words)


def test_a_target_of_make_exists() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [str(command) for block in SHELL for command in commands_in(block.text)]
    commands += [code for _, code in INLINE]
    named = {match[1] for command in commands if (match := re.match(r"make (\w+)$", command))}
    assert named >= {"check", "test", "faults"}
    assert named <= {*targets}


def test_a_python_module_that_is_run_exists() -> None:
    named = {match.group() for _, code in INLINE if (match := re.search(r"\b(bench|tests)\.[a-z_.]+", code))}
    assert len(named) > 5
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
