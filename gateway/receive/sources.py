"""The mapping files while webhooks come in: what was changed is read again, and no webhook is dropped for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from gateway.config import Source, mapping_files, read_mapping, source_of, the_only
from gateway.errors import ConfigError, Severity, defect

log = logging.getLogger(__name__)

#: Seconds between two looks at the files: no less than the steps in which any file system counts its times.
LOOK_EVERY = 2.0
#: Seconds that are left to the webhooks after each file: under gevent nothing else runs while one is compiled.
BREATH = 0.01

#: What tells two versions of a file apart without reading them; None when the file cannot be examined.
Stamp: TypeAlias = tuple[int, ...] | None


def stamp_of(path: Path) -> Stamp:
    """Give the stamp of a file as it is now."""
    try:
        found = path.stat()
    except OSError:
        return None  # reading it says why
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


class Sources:
    """The sources by their names, as the mapping files have them now.

    A source is replaced as a whole: a webhook is finished with the mapping that it began with. What would close a
    source that is open is not taken; the version that was read before stays in use.

    Args:
        stamp: Gives the stamp of a file.

    Raises:
        ConfigError: The directory cannot be read, or there is no mapping file in it.
    """

    def __init__(
        self, directory: Path, environ: Mapping[str, str], *, stamp: Callable[[Path], Stamp] = stamp_of
    ) -> None:
        self._directory = directory
        self._environ = environ
        self._stamp = stamp
        self._files = {path: self._read(path, None) for path in mapping_files(directory)}
        look = _Look({}, [file.source for file in self._files.values()], frozenset())
        self._current = look.outcome
        self._missing = look.missing
        self._refused = look.refused
        self._unlisted: str | None = None

    def get(self, name: str) -> Source | None:
        """Give the source of that name, if there is one."""
        return self._current.get(name)

    def keep_current(self, stopping: threading.Event, *, every: float = LOOK_EVERY) -> None:
        """Look for changes, with so many seconds between two looks, until told to stop. No error ends it."""
        said = None
        while not stopping.wait(every):
            problem = self._problem()
            if problem is not None and problem != said:
                log.error("looking for changed mapping files: %s; trying again", problem)
            said = problem

    def refresh(self) -> None:
        """Read what was changed since the last look, take what is good of it, and log what happened."""
        paths = self._listed()
        if paths is None:
            return
        known, files = self._files, {}
        for path in paths:
            files[path] = self._read(path, known.get(path))
            if _is_news(files[path], known.get(path)):
                time.sleep(BREATH)
        look = _Look(self._current, [file.source for file in files.values()], self._missing)
        refused_before = self._refused
        self._current = look.outcome
        self._files, self._missing, self._refused = files, look.missing, look.refused
        _log_problems(file.source for path, file in files.items() if _is_news(file, known.get(path)))
        _log_refused(look.refused, refused_before)
        _log_changes(look)

    def _problem(self) -> str | None:
        """Look once, and tell what went wrong."""
        try:
            self.refresh()
        except Exception as error:  # noqa: BLE001  # the webhooks, and the next look, go on
            return defect(error)
        return None

    def _listed(self) -> list[Path] | None:
        """List the files; None when there is nothing to go by, which is said once."""
        try:
            paths = mapping_files(self._directory)
        except ConfigError as error:
            if str(error) != self._unlisted:
                log.error("all sources stay as they are: %s", error)
            self._unlisted = str(error)
            return None
        if self._unlisted is not None:
            log.info("there are mapping files in %s again", self._directory)
        self._unlisted = None
        return paths

    def _read(self, path: Path, known: _File | None) -> _File:
        stamp = self._stamp(path)
        seen = known is not None and known.stamp == stamp
        if known is not None and seen and known.settled:
            return known
        unnamed = path.stem if known is None else known.source.name
        try:
            text = read_mapping(path)
        except ConfigError as error:
            source = Source(name=unnamed, file=str(path), closed=str(error))
            if known is not None and known.source == source:
                return replace(known, stamp=stamp)
            return _File(stamp=stamp, text=None, source=source, settled=False)
        if known is not None and known.text == text:
            return replace(known, stamp=stamp, settled=seen)
        source = source_of(text, path, self._environ, unnamed=unnamed)
        return _File(stamp=stamp, text=text, source=source, settled=seen)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A mapping file as it was read.

    Attributes:
        text: None when it could not be read.
        settled: Its stamp was the same at the look before, and it was read since: what is written from now on has
            another stamp. Within one step of the file system's time, two versions can have the same.
    """

    stamp: Stamp
    text: str | None
    source: Source
    settled: bool


def _is_news(file: _File, known: _File | None) -> bool:
    return known is None or file.source is not known.source


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refusal:
    """What a file says of a source that is open, and why it is not used."""

    name: str
    source: Source
    why: str


class _Look:
    """What one look at all files comes to.

    Args:
        before: The sources in use until now, by their names.
        said: What the files say now.
        missed: The files of sources in use that were gone at the look before already.

    Attributes:
        outcome: The sources to use from now on.
        missing: The files of sources in use that are gone now.
        refused: What is not used although its source is open, by file.
    """

    def __init__(self, before: Mapping[str, Source], said: Iterable[Source], missed: frozenset[str]) -> None:
        self.before = before
        self.said = {source.file: source for source in said}
        self._missed = missed
        self._claims: dict[str, list[Source]] = {}
        for source in self.said.values():
            self._claims.setdefault(self._name(source), []).append(source)
        self.outcome = {name: self._chosen(name) for name in self._claims}
        unclaimed = {name: source for name, source in before.items() if name not in self._claims}
        self.outcome |= {name: source for name, source in unclaimed.items() if self._stays(source)}
        files = {source.file for source in self.outcome.values()}
        self.missing = frozenset(files - self.said.keys())
        self.refused = {each.source.file: each for each in self._refusals()}

    def _refusals(self) -> Iterator[_Refusal]:
        for name, claims in self._claims.items():
            used = self.outcome[name]
            if used.closed is not None or self._is_awaited(used):
                continue
            for source in claims:
                if source is not used:
                    why = source.closed or str(the_only(name, claims).closed)
                    yield _Refusal(name=name, source=source, why=why)

    def _name(self, source: Source) -> str:
        """Tell which source a file is about: with errors in it, it still is the one that it was read as."""
        if source.closed is None:
            return source.name
        held = (name for name, each in self.before.items() if each.file == source.file and each.closed is None)
        return next(held, source.name)

    def _chosen(self, name: str) -> Source:
        """Choose among the files that say one name: an open source is its own file's, and stays open."""
        claims, before = self._claims[name], self.before.get(name)
        if before is None or before.closed is not None:
            return the_only(name, claims)
        if self._is_awaited(before):
            return before
        chosen = the_only(name, [each for each in claims if each.file == before.file] or claims)
        return chosen if chosen.closed is None else before

    def _stays(self, source: Source) -> bool:
        """Tell whether a source stays that no file says any more: its file waits for a name that is taken."""
        says = self.said.get(source.file)
        if says is None:
            return self._is_awaited(source)
        return source.closed is None and self.outcome[says.name] is not says

    def _is_awaited(self, source: Source) -> bool:
        """Tell whether a file has only just gone: whoever replaces it may write the new one this very moment."""
        return source.file not in self.said and source.file not in self._missed


def _log_problems(sources: Iterable[Source]) -> None:
    for source in sources:
        for problem in source.problems:
            log.log(_LEVELS[problem.severity], "%s", problem)


def _log_refused(refused: Mapping[str, _Refusal], before: Mapping[str, _Refusal]) -> None:
    """Say what is not used, once as long as neither it nor the reason changes."""
    for file, each in refused.items():
        known = before.get(file)
        if known is None or known.source is not each.source or known.why != each.why:
            log.error("source %s: the version read before stays in use: %s", each.name, each.why)


def _log_changes(look: _Look) -> None:
    for name, source in look.outcome.items():
        before = look.before.get(name)
        if source.closed is not None:
            if source != before:
                log.warning("source %s is closed: %s", name, source.closed)
        elif before is None or before.closed is not None:
            log.info("source %s is open: POST %s (read from %s)", name, source.path, source.file)
        elif source is not before:
            log.info("source %s: read again from %s", name, source.file)
    for name in look.before.keys() - look.outcome.keys():
        file = look.before[name].file
        why = "says another source now" if file in look.said else "is gone"
        log.warning("source %s is removed: %s %s", name, file, why)


_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING}
