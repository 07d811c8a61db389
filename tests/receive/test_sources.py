"""Mapping files that change while webhooks arrive: on real files, and at the end through the real server."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import requests

from gateway.receive.reload import Sources, Stamp, stamp_of
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
    file = tmp_path / "mappings" / "shop.yaml"
    file.parent.mkdir()
    file.write_text(mapping())
    return file


class Watched:
    """The sources of a directory, and what a refresh logs."""

    def __init__(self, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="gateway.receive.reload")
        self._directory = directory
        self._caplog = caplog
        self.pauses: list[float] = []
        self.load()

    def load(self, stamp: Callable[[Path], Stamp] = stamp_of) -> Sources:
        """Begin anew, as a process that starts."""
        self.sources = Sources(self._directory, ENVIRON, stamp=stamp, pause=self.pauses.append)
        return self.sources

    def look(self) -> list[str]:
        """Refresh once, which is half of what it takes to use an edit."""
        self._caplog.clear()
        self.sources.refresh()
        return list(self._caplog.messages)

    def refresh(self) -> list[str]:
        """Refresh until an edit is used: two looks have to see the same."""
        return self.look() + self.look()

    def types(self, name: str = "shop") -> list[str] | None:
        """The event types that an open source has rules for; None if it is closed or unknown."""
        source = self.sources.get(name)
        if source is None or source.mapping is None or source.closed is not None:
            return None
        return [type_ for rule in source.mapping.rules for type_ in rule.event_types]

    def refresh_types(self) -> tuple[list[str], list[str] | None]:
        """Refresh; return what is logged, and the event types of the shop."""
        return self.refresh(), self.types()

    def closed(self, name: str = "shop") -> str | None:
        source = self.sources.get(name)
        assert source is not None
        return source.closed


@pytest.fixture
def watched(shop: Path, caplog: pytest.LogCaptureFixture) -> Watched:
    return Watched(shop.parent, caplog)


def read_again(file: Path, name: str = "shop") -> str:
    return f"source {name}: read again from {file}"


def is_open(file: Path, name: str) -> str:
    return f"source {name} is open: POST /hooks/{name} (read from {file})"


def stays(reason: str, name: str = "shop") -> str:
    return f"source {name}: the previous version stays in use: {reason}"


def has_errors(file: Path) -> str:
    return f"{file} has errors; gateway check shows them"


def both(*files: Path, name: str = "shop") -> str:
    return f"{' and '.join(map(str, files))} both say source: {name}; rename one"


# An edit


def test_a_good_edit_is_used_for_the_webhooks_after_it(shop: Path, watched: Watched) -> None:
    previous = watched.sources.get("shop")
    shop.write_text(mapping(type_="y"))
    assert watched.types() == ["x"]
    assert watched.refresh_types() == ([read_again(shop)], ["y"])
    assert previous is not None
    assert previous.mapping is not None
    assert previous.mapping.rules[0].event_types == ("x",)
    assert watched.refresh() == []


def test_the_warnings_of_an_edit_are_logged(shop: Path, watched: Watched) -> None:
    shop.write_text(mapping(type_="y").replace("event_key: =id\n", ""))
    first, last = watched.refresh()
    assert first.startswith(f"{shop}:3:9: warning no-event-key: ")
    assert last == read_again(shop)


def test_a_broken_edit_leaves_the_last_good_version_in_use_and_is_logged_once(shop: Path, watched: Watched) -> None:
    shop.write_text(mapping(type_="y"))
    watched.refresh()
    shop.write_text(mapping().replace("destroy", "destory").replace("=type", "=type |"))
    *problems, last = watched.refresh()
    assert [problem.split(": ")[:2] for problem in problems] == [
        [f"{shop}:4:20", "error expression"],
        [f"{shop}:8:13", "error unknown-call"],
    ]
    assert last == stays(has_errors(shop))
    assert watched.types() == ["y"]
    assert [watched.refresh() for _ in range(3)] == [[], [], []]
    shop.write_text(mapping(type_="z"))
    assert watched.refresh_types() == ([read_again(shop)], ["z"])


def test_a_file_that_is_half_written_is_used_when_it_is_complete(shop: Path, watched: Watched) -> None:
    text = mapping(type_="y")
    for length in (0, 20, text.index("    - call"), len(text) - 10):  # the third is a valid file without any call
        shop.write_text(text[:length])
        assert (watched.look(), watched.types()) == ([], ["x"])
    shop.write_text(text)
    assert (watched.look(), watched.types()) == ([], ["x"])
    assert (watched.look(), watched.types()) == ([read_again(shop)], ["y"])


def test_the_same_bytes_written_again_begin_a_new_wait(shop: Path, watched: Watched) -> None:
    shop.write_text(mapping(type_="y"))
    for moment in (1, 2, 3):
        os.utime(shop, (moment, moment))
        assert (watched.look(), watched.types()) == ([], ["x"])
    assert watched.look() == [read_again(shop)]


def test_a_new_file_that_is_half_written_is_no_source_yet(shop: Path, watched: Watched) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(BROKEN)
    assert (watched.look(), watched.sources.get("pay")) == ([], None)
    pay.write_text(mapping("pay"))
    assert (watched.look(), watched.sources.get("pay")) == ([], None)
    assert watched.look() == [is_open(pay, "pay")]


def test_at_the_start_a_file_that_is_being_written_is_a_closed_source(
    shop: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    def write_on(seconds: float) -> None:
        assert 0 < seconds < 1
        shop.write_text(mapping(type_="y"))

    watched.sources = Sources(shop.parent, ENVIRON, pause=write_on)
    assert "is being written" in str(watched.closed())
    assert watched.look() == [is_open(shop, "shop")]
    assert watched.types() == ["y"]


def test_only_files_that_were_just_written_delay_the_start(shop: Path, watched: Watched) -> None:
    assert len(watched.pauses) == 1
    os.utime(shop, (0, 0))
    watched.load()
    assert (len(watched.pauses), watched.types()) == (1, ["x"])


def test_a_file_that_cannot_be_read_leaves_the_last_good_version_in_use(shop: Path, watched: Watched) -> None:
    shop.write_bytes(b"\xff\xfe")
    assert watched.refresh() == [stays(f"{shop} is not UTF-8 text: save it as UTF-8")]
    shop.unlink()
    shop.mkdir()
    assert watched.refresh() == [stays(f"{shop} is not a regular file")]
    assert watched.refresh_types() == ([], ["x"])


def test_an_edit_that_would_close_the_source_is_not_used(shop: Path, watched: Watched) -> None:
    shop.write_text(mapping(type_="y", secret="TOKEN_OF_SHOP"))
    assert watched.refresh_types() == ([stays("TOKEN_OF_SHOP is not set: it holds the secret of source shop")], ["x"])


def test_a_good_edit_opens_a_closed_source(shop: Path, watched: Watched) -> None:
    shop.write_text(BROKEN)
    unset = shop.with_name("unset.yaml")
    unset.write_text(mapping("unset", secret="NONE"))
    watched.load()
    assert watched.closed() == has_errors(shop)
    assert watched.refresh() == []
    shop.write_text(mapping())
    unset.write_text(mapping("unset"))
    assert watched.refresh() == [is_open(shop, "shop"), is_open(unset, "unset")]
    assert watched.types() == watched.types("unset") == ["x"]


def test_a_closed_source_keeps_its_name_while_its_file_is_rewritten(shop: Path, watched: Watched) -> None:
    other = shop.rename(shop.with_name("other.yaml"))
    other.write_text(BROKEN)
    watched.load()
    other.write_text("")
    assert watched.refresh()[-1] == f"source shop is closed: {has_errors(other)}"
    assert watched.sources.get("other") is None


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_only_changed_files_are_compiled(shop: Path, watched: Watched, newline: str) -> None:
    shop.with_name("pay.yaml").write_text(mapping("pay"))
    sources = watched.load()
    before = sources.get("shop"), sources.get("pay")
    shop.write_text(mapping(), newline=newline)
    assert watched.refresh() == []
    assert (sources.get("shop"), sources.get("pay")) == before
    shop.write_text(mapping(type_="y"))
    assert watched.refresh() == [read_again(shop)]
    assert sources.get("pay") is before[1]


def test_two_versions_with_the_same_stamp_are_told_apart(shop: Path, watched: Watched) -> None:
    def coarse(path: Path) -> Stamp:
        """A file system whose times have a resolution of an hour, and which has no inodes."""
        stamp = stamp_of(path)
        return stamp and (stamp[0] // 3_600_000_000_000, stamp[2])

    watched.load(coarse)
    shop.write_text(mapping(type_="y"))  # within the same hour as the first, and of the same size
    assert watched.refresh() == [read_again(shop)]
    shop.write_text(mapping(type_="long"))
    watched.refresh()
    shop.write_text(mapping(type_="LONG"))
    assert watched.refresh_types() == ([read_again(shop)], ["LONG"])
    os.utime(shop, (0, 0))
    watched.look()
    shop.write_text(mapping(type_="last"))
    os.utime(shop, (0, 0))
    assert watched.refresh_types() == ([read_again(shop)], ["last"])


def test_nothing_holds_a_mapping_that_was_replaced(shop: Path, watched: Watched) -> None:
    source = watched.sources.get("shop")
    assert source is not None
    assert source.mapping is not None
    old = weakref.ref(source.mapping)
    del source
    gc.disable()  # the server excludes the first mappings from garbage collection
    try:
        shop.write_text(mapping(type_="y"))
        watched.refresh()
        assert old() is None
    finally:
        gc.enable()


# Files that come, go and are renamed


def test_a_new_file_adds_its_source(shop: Path, watched: Watched) -> None:
    pay = shop.with_name("pay.yml")
    pay.write_text(mapping("pay"))
    assert watched.refresh() == [is_open(pay, "pay")]
    assert watched.types("pay") == watched.types() == ["x"]


def test_the_source_of_a_new_file_with_errors_is_closed(shop: Path, watched: Watched) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(BROKEN.replace("shop", "pay"))
    assert watched.refresh()[-1] == f"source pay is closed: {has_errors(pay)}"
    assert watched.closed("pay") == has_errors(pay)
    assert watched.refresh() == []


def test_hidden_files_of_editors_are_not_read(shop: Path, watched: Watched) -> None:
    shop.with_name(".#shop.yaml").symlink_to("somebody@somewhere.4711")
    shop.with_name(".shop.yaml").write_text(mapping())
    assert watched.refresh() == []


def test_a_file_may_name_another_source(shop: Path, watched: Watched) -> None:
    shop.write_text(mapping("store"))
    removed = f"source shop is removed: {shop} names another source now"
    assert watched.refresh() == [is_open(shop, "store"), removed]
    assert (watched.types("store"), watched.sources.get("shop")) == (["x"], None)


def test_a_source_is_removed_when_its_file_is_missing_twice(shop: Path, watched: Watched) -> None:
    shop.with_name("pay.yaml").write_text(mapping("pay"))
    watched.refresh()
    for type_ in ("y", "z"):  # missing once is a file that is being replaced
        shop.unlink()
        assert watched.look() == []
        shop.write_text(mapping(type_=type_))
        assert watched.refresh_types() == ([read_again(shop)], [type_])
    shop.unlink()
    assert (watched.look(), watched.types()) == ([], ["z"])
    assert watched.look() == [f"source shop is removed: {shop} is gone"]
    assert watched.sources.get("shop") is None


def test_a_file_that_is_replaced_by_renaming_is_read(shop: Path, watched: Watched) -> None:
    new = shop.with_name("shop.yaml.new")
    new.write_text(mapping(type_="y"))
    new.rename(shop)
    assert watched.refresh_types() == ([read_again(shop)], ["y"])


def test_a_source_stays_open_when_its_file_is_renamed(shop: Path, watched: Watched) -> None:
    store = shop.rename(shop.with_name("store.yaml"))
    assert (watched.look(), watched.types()) == ([], ["x"])
    assert watched.look() == [read_again(store)]


def test_a_source_stays_open_when_its_file_is_renamed_and_broken_at_once(shop: Path, watched: Watched) -> None:
    store = shop.rename(shop.with_name("store.yaml"))
    store.write_text(BROKEN)
    watched.look()
    assert watched.look()[1:] == [stays(has_errors(store))]
    assert watched.refresh_types() == ([], ["x"])
    store.write_text(mapping(type_="y"))
    assert watched.refresh() == [read_again(store)]


@pytest.mark.parametrize("empty", [False, True])
def test_without_a_directory_everything_stays_and_this_is_logged_once(
    shop: Path, watched: Watched, empty: bool
) -> None:
    directory = shop.parent
    shutil.rmtree(directory)
    if empty:
        directory.mkdir()
    (only,) = watched.refresh()
    assert only.startswith("all sources stay as they are: there is no ")
    assert str(directory) in only
    assert [watched.refresh() for _ in range(3)] == [[], [], []]
    assert watched.types() == ["x"]
    directory.mkdir(exist_ok=True)
    shop.write_text(mapping(type_="y"))
    assert watched.refresh() == [f"there are mapping files in {directory} again", read_again(shop)]


# Two files of one source


def test_at_the_start_two_files_of_one_source_close_it_until_one_is_renamed(shop: Path, watched: Watched) -> None:
    copy = shop.with_name("copy.yaml")
    copy.write_text(mapping(type_="copied"))
    watched.load()
    assert watched.closed() == both(copy, shop)
    assert watched.refresh() == []
    copy.write_text(mapping("store"))
    assert watched.refresh() == [is_open(copy, "store"), is_open(shop, "shop")]


def test_a_copy_of_a_file_in_use_does_no_harm(shop: Path, watched: Watched) -> None:
    copy = shop.with_name("copy.yaml")
    copy.write_text(mapping(type_="copied"))
    assert watched.refresh() == [stays(both(copy, shop))]
    assert watched.refresh() == []
    shop.write_text(mapping(type_="y"))
    assert watched.refresh_types() == ([read_again(shop)], ["y"])
    shop.unlink()
    assert (watched.look(), watched.types()) == ([], ["y"])
    assert (watched.look(), watched.types()) == ([read_again(copy)], ["copied"])


def test_of_two_new_files_of_one_source_neither_is_used(shop: Path, watched: Watched) -> None:
    first, second = shop.with_name("a.yaml"), shop.with_name("b.yaml")
    first.write_text(mapping("pay"))
    second.write_text(mapping("pay"))
    assert watched.refresh() == [f"source pay is closed: {both(first, second, name='pay')}"]
    assert watched.refresh() == []


def test_a_file_cannot_take_the_name_of_another_source(shop: Path, watched: Watched) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(mapping("pay"))
    watched.refresh()
    shop.write_text(mapping("pay", type_="y"))
    assert watched.refresh() == [stays(both(pay, shop, name="pay"), name="pay")]
    assert watched.refresh() == []
    assert watched.types() == watched.types("pay") == ["x"]
    pay.write_text(mapping("store"))
    watched.refresh()
    assert (watched.types("pay"), watched.types("store"), watched.sources.get("shop")) == (["y"], ["x"], None)


def test_two_files_can_exchange_their_names(shop: Path, watched: Watched) -> None:
    pay = shop.with_name("pay.yaml")
    pay.write_text(mapping("pay", type_="y"))
    watched.refresh()
    shop.write_text(mapping("pay", type_="x"))
    pay.write_text(mapping("shop", type_="y"))
    assert len(watched.refresh()) == 2
    assert (watched.types("pay"), watched.types()) == (["x"], ["y"])


# The thread


def test_no_error_ends_the_thread_and_each_is_logged_once(
    shop: Path, watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def stamp(path: Path) -> Stamp:
        nonlocal calls
        calls += 1
        if calls in (3, 4):  # after the two looks at the start
            raise LookupError("4711")
        return stamp_of(path)

    sources, stopping = watched.load(stamp), threading.Event()
    thread = threading.Thread(target=sources.keep_current, args=(stopping,), kwargs={"every": 0.01})
    shop.write_text(mapping(type_="y"))
    thread.start()
    ends = time.monotonic() + 5
    while watched.types() == ["x"] and time.monotonic() < ends:
        time.sleep(0.01)
    stopping.set()
    thread.join()
    first, *others = caplog.messages
    assert first.startswith(f"checking for changed mapping files: unexpected LookupError at {__file__}:")
    assert "4711" not in first
    assert others == [read_again(shop)]


# The real server


class Sender(threading.Thread):
    """Posts to a few sources in turn until it is stopped, each time over a new connection.

    Attributes:
        answers: By source, in the order of sending: the status, the number of calls, and the Retry-After.
        errors: Failures without an answer.
    """

    def __init__(self, url: str, names: Sequence[str]) -> None:
        super().__init__()
        self.answers: dict[str, list[tuple[int, int | None, str | None]]] = {name: [] for name in names}
        self.errors: list[requests.RequestException] = []
        self._url = url
        self._stopping = threading.Event()

    def run(self) -> None:
        headers = {"Authorization": "Bearer t-4711"}
        for number in itertools.count():
            for name, answers in self.answers.items():
                body = {"type": "x", "id": number}
                try:
                    answer = requests.post(f"{self._url}/hooks/{name}", json=body, headers=headers, timeout=5)
                except requests.RequestException as error:
                    self.errors.append(error)
                else:
                    answers.append((answer.status_code, answer.json().get("calls"), answer.headers.get("Retry-After")))
            if self._stopping.wait(0.005):
                return

    def wait_for_more(self) -> dict[str, int]:
        """Wait until every source has answered a webhook that is sent from now on; return where those answers begin."""
        begin = {name: len(answers) + 1 for name, answers in self.answers.items()}  # one is under way
        wait_until(lambda: all(len(self.answers[name]) > begin[name] for name in begin), "an answer of each source")
        return begin

    def __enter__(self) -> Sender:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()


def wait_until(condition: Callable[[], bool], expected: str) -> None:
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends, f"not within 10 seconds: {expected}"
        time.sleep(0.02)


def is_logged(gateway: GatewayProcess, line: str) -> bool:
    return f"{line}\n" in gateway.read_logs()


def test_edits_under_load_are_used_without_dropping_a_webhook(shop: Path, tmp_path: Path) -> None:
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
        with Sender(gateway.url, ["shop", "pay", "late"]) as sender:
            sender.wait_for_more()
            shop.write_text(mapping() + "    - call: suppress\n      id: =id\n")
            pay.write_text(BROKEN.replace("shop", "pay"))
            late.write_text(mapping("late"))
            for message in (read_again(shop), is_open(late, "late"), stays(has_errors(pay), "pay")):
                wait_until(partial(is_logged, gateway, message), message)
            after = sender.wait_for_more()
        assert gateway.stop() == {"web": 0}
        assert gateway.read_logs().count(f"{stays(has_errors(pay), 'pay')}\n") == 1
    assert sender.errors == []
    one_call, two_calls, refused = (202, 1, None), (202, 2, None), (503, None, "60")
    assert set(sender.answers["shop"]) == {one_call, two_calls}
    assert set(sender.answers["shop"][after["shop"] :]) == {two_calls}
    assert set(sender.answers["pay"]) == {one_call}
    assert set(sender.answers["late"]) == {refused, one_call}
    assert set(sender.answers["late"][after["late"] :]) == {one_call}
