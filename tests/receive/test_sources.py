"""Mapping files that change while webhooks come in: on real files, and through the real server at the end."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from gateway.receive.sources import Sources, Stamp, stamp_of
from gateway.store.schema import migrate
from tests.support.databases import opened
from tests.support.gateway_process import GatewayProcess

ENVIRON = {"TOKEN": "t-4711"}
MAPPING = """\
version: 1
source: {source}
verify: {{scheme: bearer, secret_env: {secret}}}
event_type: =type
event_key: =id
events:
  {type}:
    - call: destroy
      id: =id
"""
BROKEN = "version: 1\nsource: shop\nevents: [\n"


def mapping(source: str = "shop", *, type_: str = "x", secret: str = "TOKEN") -> str:
    return MAPPING.format(source=source, type=type_, secret=secret)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A mapping file, in a directory of its own."""
    directory = tmp_path / "mappings"
    directory.mkdir()
    file = directory / "shop.yaml"
    file.write_text(mapping())
    return file


@pytest.fixture
def sources(shop: Path) -> Sources:
    return Sources(shop.parent, ENVIRON)


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="gateway.receive.sources")
    return caplog


def look(sources: Sources, said: pytest.LogCaptureFixture) -> list[str]:
    """Look once, and give what was logged of it."""
    said.clear()
    sources.refresh()
    return said.messages


def types(sources: Sources, name: str = "shop") -> list[str]:
    """Give the event types that a source has rules for; none when it is closed or unknown."""
    source = sources.get(name)
    if source is None or source.mapping is None or source.closed is not None:
        return []
    return [type_ for rule in source.mapping.rules for type_ in rule.event_types]


def closed(sources: Sources, name: str = "shop") -> str | None:
    source = sources.get(name)
    assert source is not None
    return source.closed


# An edit


def test_a_good_edit_takes_the_place_of_what_was_read_before(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    began_with = sources.get("shop")
    shop.write_text(mapping(type_="y"))
    assert types(sources) == ["x"]
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["y"]
    assert began_with is not None
    assert began_with.mapping is not None
    assert began_with.mapping.rules[0].event_types == ("x",)
    assert look(sources, said) == []


def test_an_edit_is_taken_with_its_warnings(shop: Path, sources: Sources, said: pytest.LogCaptureFixture) -> None:
    shop.write_text(mapping(type_="y").replace("event_key: =id\n", ""))
    first, last = look(sources, said)
    assert first.startswith(f"{shop}:3:9: warning no-event-key: ")
    assert last == f"source shop: read again from {shop}"


def test_a_broken_edit_leaves_the_last_good_version_in_use_and_is_said_once(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    shop.write_text(mapping(type_="y"))
    sources.refresh()
    shop.write_text(mapping().replace("destroy", "destory").replace("=type", "=type |"))
    *problems, last = look(sources, said)
    assert [problem.split(": ")[:2] for problem in problems] == [
        [f"{shop}:4:20", "error expression"],
        [f"{shop}:8:13", "error unknown-call"],
    ]
    assert last == f"source shop: the version read before stays in use: {shop} has errors; gateway check shows them"
    assert types(sources) == ["y"]
    assert [look(sources, said) for _ in range(3)] == [[], [], []]
    shop.write_text(mapping(type_="z"))
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["z"]


def test_a_file_that_is_half_written_is_taken_when_it_is_whole(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    whole = mapping(type_="y")
    for length in (0, 20, len(whole) - 10):
        shop.write_text(whole[:length])
        assert look(sources, said)[-1].startswith("source shop: the version read before stays in use: ")
        assert types(sources) == ["x"]
    shop.write_text(whole)
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["y"]


def test_a_file_that_cannot_be_read_leaves_the_last_good_version_in_use(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    shop.write_bytes(b"\xff\xfe")
    why = f"{shop} cannot be read as UTF-8 text"
    stays = "source shop: the version read before stays in use"
    assert look(sources, said) == [f"{stays}: {why} (UnicodeDecodeError)"]
    shop.unlink()
    shop.mkdir()
    assert look(sources, said) == [f"{stays}: {why} (IsADirectoryError)"]
    assert look(sources, said) == []
    assert types(sources) == ["x"]


def test_an_edit_that_would_close_the_source_is_not_taken(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    shop.write_text(mapping(type_="y", secret="TOKEN_OF_SHOP"))
    (only,) = look(sources, said)
    assert only == (
        "source shop: the version read before stays in use:"
        " TOKEN_OF_SHOP is not set: it holds the secret of source shop"
    )
    assert types(sources) == ["x"]


def test_a_good_edit_opens_a_source_that_is_closed(shop: Path, said: pytest.LogCaptureFixture) -> None:
    shop.write_text(BROKEN)
    unset = shop.with_name("unset.yaml")
    unset.write_text(mapping("unset", secret="NONE"))
    sources = Sources(shop.parent, ENVIRON)
    assert closed(sources) == f"{shop} has errors; gateway check shows them"
    assert look(sources, said) == []
    shop.write_text(mapping())
    unset.write_text(mapping("unset"))
    assert look(sources, said) == [
        f"source {name} is open: POST /hooks/{name} (read from {file})"
        for name, file in (("shop", shop), ("unset", unset))
    ]
    assert types(sources) == types(sources, "unset") == ["x"]


def test_a_source_that_is_closed_keeps_its_name_while_its_file_is_written_anew(
    shop: Path, said: pytest.LogCaptureFixture
) -> None:
    other = shop.rename(shop.with_name("other.yaml"))
    other.write_text(BROKEN)
    sources = Sources(shop.parent, ENVIRON)
    other.write_text("")
    assert look(sources, said)[-1] == f"source shop is closed: {other} has errors; gateway check shows them"
    assert sources.get("other") is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_that_is_written_as_it_was_is_not_compiled(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture, newline: str
) -> None:
    before = sources.get("shop")
    shop.write_text(mapping(), newline=newline)
    assert look(sources, said) == []
    assert sources.get("shop") is before


def test_only_what_changed_is_compiled(shop: Path, said: pytest.LogCaptureFixture) -> None:
    shop.with_name("pay.yaml").write_text(mapping("pay"))
    sources = Sources(shop.parent, ENVIRON)
    before = sources.get("pay")
    shop.write_text(mapping(type_="y"))
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert sources.get("pay") is before


def coarse(path: Path) -> Stamp:
    """A file system that counts hours and knows no inodes."""
    found = stamp_of(path)
    return found and (found[0] // 3_600_000_000_000, found[2])


def test_two_versions_that_look_the_same_from_outside_are_told_apart(
    shop: Path, said: pytest.LogCaptureFixture
) -> None:
    sources = Sources(shop.parent, ENVIRON, stamp=coarse)
    shop.write_text(mapping(type_="y"))  # within the same step of time as the first, and of the same size
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    shop.write_text(mapping(type_="long"))
    sources.refresh()
    shop.write_text(mapping(type_="LONG"))
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["LONG"]
    os.utime(shop, (0, 0))
    sources.refresh()
    shop.write_text(mapping(type_="last"))
    os.utime(shop, (0, 0))
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["last"]


def test_nothing_holds_a_mapping_that_was_replaced(shop: Path, sources: Sources) -> None:
    source = sources.get("shop")
    assert source is not None
    assert source.mapping is not None
    old = weakref.ref(source.mapping)
    del source
    gc.disable()  # the first mappings are out of its sight
    try:
        shop.write_text(mapping(type_="y"))
        sources.refresh()
        assert old() is None
    finally:
        gc.enable()


# Files that come, go and are renamed


def test_a_new_file_adds_its_source(shop: Path, sources: Sources, said: pytest.LogCaptureFixture) -> None:
    pay = shop.with_name("pay.yml")
    pay.write_text(mapping("pay"))
    assert look(sources, said) == [f"source pay is open: POST /hooks/pay (read from {pay})"]
    assert types(sources, "pay") == types(sources) == ["x"]


def test_a_new_file_with_errors_is_closed(shop: Path, sources: Sources, said: pytest.LogCaptureFixture) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(BROKEN.replace("shop", "pay"))
    assert look(sources, said)[-1] == f"source pay is closed: {pay} has errors; gateway check shows them"
    assert closed(sources, "pay") == f"{pay} has errors; gateway check shows them"
    assert look(sources, said) == []


def test_what_editors_hide_is_no_mapping_file(shop: Path, sources: Sources, said: pytest.LogCaptureFixture) -> None:
    shop.with_name(".#shop.yaml").symlink_to("somebody@somewhere.4711")
    shop.with_name(".shop.yaml").write_text(mapping())
    assert look(sources, said) == []


def test_a_source_moves_with_its_name(shop: Path, sources: Sources, said: pytest.LogCaptureFixture) -> None:
    shop.write_text(mapping("store"))
    assert look(sources, said) == [
        f"source store is open: POST /hooks/store (read from {shop})",
        f"source shop is removed: {shop} says another source now",
    ]
    assert (types(sources, "store"), sources.get("shop")) == (["x"], None)


def test_a_source_is_removed_when_its_file_is_gone_at_two_looks(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    shop.with_name("pay.yaml").write_text(mapping("pay"))
    sources.refresh()
    shop.unlink()
    assert look(sources, said) == []
    assert types(sources) == ["x"]
    assert look(sources, said) == [f"source shop is removed: {shop} is gone"]
    assert sources.get("shop") is None


def test_a_file_that_is_gone_for_a_moment_is_missed_by_nobody(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    shop.with_name("pay.yaml").write_text(mapping("pay"))
    sources.refresh()
    for type_ in ("y", "z"):
        shop.unlink()
        assert look(sources, said) == []
        shop.write_text(mapping(type_=type_))
        assert look(sources, said) == [f"source shop: read again from {shop}"]
        assert types(sources) == [type_]


def test_a_file_that_is_replaced_by_renaming_is_read(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    new = shop.with_name("shop.yaml.new")
    new.write_text(mapping(type_="y"))
    new.rename(shop)
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["y"]


def test_a_source_goes_on_when_its_file_is_renamed(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    store = shop.rename(shop.with_name("store.yaml"))
    assert look(sources, said) == []
    assert types(sources) == ["x"]
    assert look(sources, said) == [f"source shop: read again from {store}"]


def test_a_source_goes_on_when_its_file_is_renamed_and_broken_at_once(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    store = shop.rename(shop.with_name("store.yaml"))
    store.write_text(BROKEN)
    sources.refresh()
    assert look(sources, said) == [
        f"source shop: the version read before stays in use: {store} has errors; gateway check shows them"
    ]
    assert (look(sources, said), types(sources)) == ([], ["x"])
    store.write_text(mapping(type_="y"))
    assert look(sources, said) == [f"source shop: read again from {store}"]


@pytest.mark.parametrize("empty", [False, True])
def test_without_a_directory_everything_stays_and_it_is_said_once(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture, empty: bool
) -> None:
    directory = shop.parent
    shutil.rmtree(directory)
    if empty:
        directory.mkdir()
    (only,) = look(sources, said)
    assert only.startswith("all sources stay as they are: there is no ")
    assert str(directory) in only
    assert [look(sources, said) for _ in range(3)] == [[], [], []]
    assert types(sources) == ["x"]
    directory.mkdir(exist_ok=True)
    shop.write_text(mapping(type_="y"))
    assert look(sources, said) == [
        f"there are mapping files in {directory} again",
        f"source shop: read again from {shop}",
    ]


# Two files of one source


def both(*files: Path, name: str = "shop") -> str:
    return f"{' and '.join(map(str, files))} both say source: {name}; rename one"


def test_at_the_start_two_files_of_one_source_close_it_until_one_is_renamed(
    shop: Path, said: pytest.LogCaptureFixture
) -> None:
    copy = shop.with_name("copy.yaml")
    copy.write_text(mapping(type_="copied"))
    sources = Sources(shop.parent, ENVIRON)
    assert closed(sources) == both(copy, shop)
    assert look(sources, said) == []
    copy.write_text(mapping("store"))
    assert look(sources, said) == [
        f"source store is open: POST /hooks/store (read from {copy})",
        f"source shop is open: POST /hooks/shop (read from {shop})",
    ]


def test_a_new_file_does_no_harm_to_the_one_in_use(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    copy = shop.with_name("copy.yaml")
    copy.write_text(mapping(type_="copied"))
    assert look(sources, said) == [f"source shop: the version read before stays in use: {both(copy, shop)}"]
    assert look(sources, said) == []
    shop.write_text(mapping(type_="y"))
    assert look(sources, said) == [f"source shop: read again from {shop}"]
    assert types(sources) == ["y"]
    shop.unlink()
    assert (look(sources, said), types(sources)) == ([], ["y"])
    assert look(sources, said) == [f"source shop: read again from {copy}"]
    assert types(sources) == ["copied"]


def test_of_two_new_files_neither_is_taken(shop: Path, sources: Sources, said: pytest.LogCaptureFixture) -> None:
    first, second = shop.with_name("a.yaml"), shop.with_name("b.yaml")
    first.write_text(mapping("pay"))
    second.write_text(mapping("pay"))
    assert look(sources, said) == [f"source pay is closed: {both(first, second, name='pay')}"]
    assert look(sources, said) == []


def test_a_source_does_not_move_to_a_name_that_is_taken(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(mapping("pay"))
    sources.refresh()
    shop.write_text(mapping("pay", type_="y"))
    assert look(sources, said) == [f"source pay: the version read before stays in use: {both(pay, shop, name='pay')}"]
    assert look(sources, said) == []
    assert types(sources) == types(sources, "pay") == ["x"]
    pay.write_text(mapping("store"))
    sources.refresh()
    assert (types(sources, "pay"), types(sources, "store"), sources.get("shop")) == (["y"], ["x"], None)


def test_two_sources_can_change_their_names_with_each_other(
    shop: Path, sources: Sources, said: pytest.LogCaptureFixture
) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(mapping("pay", type_="y"))
    sources.refresh()
    shop.write_text(mapping("pay", type_="x"))
    pay.write_text(mapping("shop", type_="y"))
    assert len(look(sources, said)) == 2
    assert (types(sources, "pay"), types(sources)) == (["x"], ["y"])


# The thread


def test_no_error_ends_the_looking_and_each_is_said_once(shop: Path, said: pytest.LogCaptureFixture) -> None:
    looks = 0

    def stamp(path: Path) -> Stamp:
        nonlocal looks
        looks += 1
        if looks in (2, 3):
            raise LookupError("4711")
        return stamp_of(path)

    sources, stopping = Sources(shop.parent, ENVIRON, stamp=stamp), threading.Event()
    thread = threading.Thread(target=sources.keep_current, args=(stopping,), kwargs={"every": 0.01})
    shop.write_text(mapping(type_="y"))
    thread.start()
    ends = time.monotonic() + 5
    while types(sources) == ["x"] and time.monotonic() < ends:
        time.sleep(0.01)
    stopping.set()
    thread.join()
    first, *others = said.messages
    assert first.startswith(f"looking for changed mapping files: unexpected LookupError at {__file__}:")
    assert "4711" not in first
    assert others == [f"source shop: read again from {shop}"]


# The real server


class Sender(threading.Thread):
    """Posts to a few sources in turn until it is ended, each time over a new connection.

    Attributes:
        answers: By source, in the order of sending: the status, the number of calls, and the Retry-After.
        errors: What went wrong without an answer.
    """

    def __init__(self, url: str, names: Sequence[str]) -> None:
        super().__init__()
        self.answers: dict[str, list[tuple[int, int | None, str | None]]] = {name: [] for name in names}
        self.errors: list[requests.RequestException] = []
        self._url = url
        self._ending = threading.Event()

    def run(self) -> None:
        for number in itertools.count():
            for name in self.answers:
                try:
                    self._post(name, number)
                except requests.RequestException as error:
                    self.errors.append(error)
            if self._ending.wait(0.005):
                return

    def end(self) -> None:
        self._ending.set()
        self.join()

    def _post(self, name: str, number: int) -> None:
        body, headers = {"type": "x", "id": number}, {"Authorization": "Bearer t-4711"}
        answer = requests.post(f"{self._url}/hooks/{name}", json=body, headers=headers, timeout=5)
        told = answer.status_code, answer.json().get("calls"), answer.headers.get("Retry-After")
        self.answers[name].append(told)


@contextmanager
def sending(gateway: GatewayProcess, names: Sequence[str]) -> Iterator[Sender]:
    sender = Sender(gateway.url, names)
    sender.start()
    try:
        yield sender
    finally:
        sender.end()


def wait_until_logged(gateway: GatewayProcess, text: str) -> None:
    ends = time.monotonic() + 10
    while text not in gateway.read_logs():
        assert time.monotonic() < ends, f"not logged: {text}"
        time.sleep(0.02)


def test_edits_under_load_are_taken_without_dropping_a_webhook(shop: Path, tmp_path: Path) -> None:
    pay, late = shop.with_name("pay.yaml"), shop.with_name("late.yaml")
    pay.write_text(mapping("pay"))
    late.write_text(BROKEN.replace("shop", "late"))
    database_url = f"sqlite:///{tmp_path}/gateway.db"
    with opened(database_url) as database:
        migrate(database)
    environment = {
        "DATABASE_URL": database_url,
        "GATEWAY_MAPPINGS": str(shop.parent),
        "WEB_CONCURRENCY": "1",
        **ENVIRON,
    }
    with GatewayProcess(environment=environment, logs=tmp_path, workers=0) as gateway:
        gateway.web.start()
        gateway.wait_until_ready()
        with sending(gateway, ["shop", "pay", "late"]) as sender:
            time.sleep(0.1)
            shop.write_text(mapping() + "    - call: suppress\n      id: =id\n")
            pay.write_text(BROKEN.replace("shop", "pay"))
            late.write_text(mapping("late"))
            wait_until_logged(gateway, f"source shop: read again from {shop}\n")
            wait_until_logged(gateway, f"source late is open: POST /hooks/late (read from {late})\n")
            old = {name: len(answers) + 1 for name, answers in sender.answers.items()}  # one is under way
            time.sleep(0.1)
        assert gateway.stop() == {"web": 0}
        refused = f"source pay: the version read before stays in use: {pay} has errors; gateway check shows them\n"
        assert gateway.read_logs().count(refused) == 1
    assert sender.errors == []
    one_call, two_calls, is_closed = (202, 1, None), (202, 2, None), (503, None, "60")
    assert set(sender.answers["shop"]) == {one_call, two_calls}
    assert set(sender.answers["shop"][old["shop"] :]) == {two_calls}
    assert set(sender.answers["pay"]) == {one_call}
    assert set(sender.answers["late"]) == {is_closed, one_call}
    assert set(sender.answers["late"][old["late"] :]) == {one_call}
