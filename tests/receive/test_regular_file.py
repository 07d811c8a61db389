"""Reading files that somebody else may have put into the directory of the mappings."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.receive.regular_file import MAX_BYTES, read_regular_file
from gateway.receive.sources import load_sources

CONTENT = b"version: 1  # 4711\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "outside.yaml").write_bytes(CONTENT)
    (tmp_path / "mappings").mkdir()
    return tmp_path / "mappings"


def bind_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))  # the whole path may be too long for a socket


@pytest.mark.parametrize(
    ("put", "problem"),
    [
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "is not a regular file"),
        (bind_socket, "cannot be read"),
        (lambda path: path.symlink_to("/dev/zero"), "is a link out of it"),
        (lambda path: path.symlink_to("/proc/self/environ"), "is a link out of it"),
        (lambda path: path.symlink_to("../outside.yaml"), "is a link out of it"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.symlink_to("missing.yaml"), "cannot be read"),
        (lambda path: path.symlink_to("."), "is not a regular file"),
        (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), f"has more than {MAX_BYTES} bytes"),
    ],
)
def test_what_is_no_regular_file_of_the_directory_closes_its_own_source_only(
    directory: Path, put: Callable[[Path], object], problem: str
) -> None:
    (directory / "good.yaml").write_text("{version: 1, source: good, verify: none, events: {}}")
    put(directory / "x.yaml")
    with pytest.raises(ConfigError) as error:
        read_regular_file(directory / "x.yaml", directory)
    assert problem in str(error.value)
    assert "4711" not in str(error.value)
    sources = load_sources(directory, {})
    assert sources["good"].closed is None
    if "x" in sources:
        assert problem in str(sources["x"].closed)


@pytest.mark.parametrize("name", ["../outside.yaml", "/proc/self/environ", "below/../../outside.yaml"])
def test_a_path_that_leads_out_of_the_directory_is_refused(directory: Path, name: str) -> None:
    (directory / "below").mkdir()
    with pytest.raises(ConfigError, match="is not in"):
        read_regular_file(directory / name, directory)


def test_the_links_of_a_config_map_are_followed(directory: Path, tmp_path: Path) -> None:
    (directory / "..2026_12_01").mkdir()
    (directory / "..2026_12_01" / "x.yaml").write_bytes(CONTENT)
    (directory / "..data").symlink_to("..2026_12_01")
    (directory / "x.yaml").symlink_to("..data/x.yaml")
    assert read_regular_file(directory / "x.yaml", directory) == CONTENT
    (tmp_path / "link").symlink_to(directory)  # the directory itself is the operator's choice
    assert read_regular_file(tmp_path / "link" / "x.yaml", tmp_path / "link") == CONTENT


def test_a_file_of_the_greatest_size_is_read(directory: Path) -> None:
    (directory / "x.yaml").write_bytes(b"#" * MAX_BYTES)
    assert len(read_regular_file(directory / "x.yaml", directory)) == MAX_BYTES


def test_refused_files_leave_no_descriptor_open(directory: Path) -> None:
    os.mkfifo(directory / "x.yaml")
    before = len(list(Path("/dev/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(ConfigError):
            read_regular_file(directory / "x.yaml", directory)
    assert len(list(Path("/dev/fd").iterdir())) == before
