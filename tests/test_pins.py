"""requirements.txt, which platforms install, agrees with the dependencies of pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "requirements.txt").read_text(encoding="utf-8")
PINS = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", TEXT, re.MULTILINE)}
DIRECT = [Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]


def test_each_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    wrong = [str(needed) for needed in DIRECT if not needed.specifier.contains(PINS[canonicalize_name(needed.name)])]
    assert wrong == [], "run: make pins"


def test_what_the_dependencies_need_is_pinned_too() -> None:
    waiting, seen = list(DIRECT), set()
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        if (key := (name, *sorted(needed.extras))) in seen:
            continue
        seen.add(key)
        further = [Requirement(text) for text in requires(name) or ()]
        extras = [{"extra": extra} for extra in ("", *needed.extras)]
        waiting += [
            requirement
            for requirement in further
            if requirement.marker is None or any(requirement.marker.evaluate(extra) for extra in extras)
        ]
    assert {name for name, *_ in seen} <= PINS.keys(), "run: make pins"


def test_each_pin_has_hashes_and_none_an_address() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", TEXT, flags=re.MULTILINE)[1:]
    assert len(entries) == len(PINS) > 0
    # A release of compiled code has a wheel for each platform and Python: a single hash would fit one of them only.
    without = [entry.partition(" ")[0] for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)]
    assert without == []
    assert "://" not in TEXT
    assert "--index" not in TEXT
