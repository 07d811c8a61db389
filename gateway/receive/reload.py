"""Re-read mapping files that change while webhooks arrive, without dropping any webhook."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from gateway.errors import ConfigError, Severity, defect
from gateway.receive.sources import Source, mapping_files, read_mapping, source_of, the_only

log = logging.getLogger(__name__)

#: Seconds between two checks of the files: not less than the resolution of any file system's times.
CHECK_EVERY = 2.0
#: Seconds since a file was written for which it may be incomplete at the start; and the pause before the second look.
YOUNG = 1.0
PAUSE_AT_START = 0.1
#: Seconds of pause after each compiled file: under gevent no webhook is served during a compilation.
PAUSE = 0.01

#: Differs between two versions of a file, in most cases; None when the file cannot be examined.
Stamp: TypeAlias = tuple[int, ...] | None


def stamp_of(path: Path) -> Stamp:
    """Return the present stamp of a file."""
    try:
        status = path.stat()
    except OSError:
        return None  # reading the file gives the reason
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


class Sources:
    """The sources in use, by name, kept current with their mapping files.

    A source is replaced as a whole, so a webhook is finished with the mapping that it began with. A version that would
    close an open source is rejected; the previous version stays in use.

    A version is used when two looks at its file, a round apart, have found the same: it may be written just now.

    Args:
        stamp: Returns the stamp of a file.
        pause: Waits so many seconds, at the start.

    Raises:
        ConfigError: The directory cannot be read, or there is no mapping file in it.
    """

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        *,
        stamp: Callable[[Path], Stamp] = stamp_of,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory = directory
        self._environ = environ
        self._stamp = stamp
        self._files = self._read_first(mapping_files(directory), pause)
        self._selection = select_sources({}, _sources_of(self._files), frozenset())
        self._directory_problem: str | None = None

    def get(self, name: str) -> Source | None:
        """Return the source of this name; None if there is none."""
        return self._selection.in_use.get(name)

    def names(self) -> list[str]:
        """Return the names of all sources."""
        return list(self._selection.in_use)

    def keep_current(self, stopping: threading.Event, *, every: float = CHECK_EVERY) -> None:
        """Refresh every so many seconds until *stopping* is set. No error ends the loop."""
        last_problem = None
        while not stopping.wait(every):
            problem = None
            try:
                self.refresh()
            except Exception as error:  # noqa: BLE001  # webhooks are served as before; the next round tries again
                problem = defect(error)
            if problem is not None and problem != last_problem:
                log.error("checking for changed mapping files: %s; trying again", problem)
            last_problem = problem

    def refresh(self) -> None:
        """Read the files that changed since the last time, use what is good, and log what happened."""
        try:
            paths = mapping_files(self._directory)
        except ConfigError as error:
            # Somebody may be replacing the whole directory.
            if str(error) != self._directory_problem:
                log.error("all sources stay as they are: %s", error)
            self._directory_problem = str(error)
            return
        if self._directory_problem is not None:
            log.info("there are mapping files in %s again", self._directory)
        self._directory_problem = None

        before = self._selection
        in_use = {source.file: source for source in before.in_use.values()}
        files: dict[Path, _File] = {}
        changed = []
        for path in paths:
            known = self._files.get(path)
            # A file that is back after a round keeps its source until it has been looked at twice.
            old = in_use.get(str(path)) if known is None else known.source
            files[path] = self._look(path, known, old)
            if (source := files[path].source) is not None and source is not old:
                changed.append(source)
                time.sleep(PAUSE)
        self._selection = select_sources(before.in_use, _sources_of(files), before.missing)
        self._files = files

        for source in changed:
            for problem in source.problems:
                log.log(_LEVELS[problem.severity], "%s", problem)
        _log_changes(before, self._selection)

    def _read_first(self, paths: Iterable[Path], pause: Callable[[float], None]) -> dict[Path, _File]:
        """Look at all files twice; what is still being written is a closed source until the next rounds."""
        looked_at = {path: self._look(path, None, None) for path in paths}
        newest = max((file.stamp[0] for file in looked_at.values() if file.stamp is not None), default=0)
        if time.time() - newest / 1e9 < YOUNG:
            pause(PAUSE_AT_START)
        files = {}
        for path, first in looked_at.items():
            file = self._look(path, first, None)
            if file.source is None:
                closed = f"{path} is being written; it is used when it stays the same for {CHECK_EVERY:g} seconds"
                file = replace(file, source=Source(name=path.stem, file=str(path), closed=closed))
            files[path] = file
        return files

    def _look(self, path: Path, known: _File | None, old: Source | None) -> _File:
        """Return a file as it is now, with its source; that is *old* until a new content was seen twice.

        Args:
            known: What the last look found.
        """
        stamp = self._stamp(path)
        has_same_stamp = known is not None and known.stamp == stamp
        if known is not None and has_same_stamp and known.is_settled:
            return known
        text, problem = _read(path)
        if known is None or (known.text, known.problem) != (text, problem):
            return _File(stamp=stamp, text=text, problem=problem, source=old)
        if known.is_used:
            return replace(known, stamp=stamp, is_settled=has_same_stamp and text is not None)
        if not has_same_stamp:
            return replace(known, stamp=stamp)
        name = path.stem if old is None else old.name
        if text is None:
            source = Source(name=name, file=str(path), closed=problem)
        else:
            source = source_of(text, path, self._environ, default_name=name)
        return replace(known, source=source, is_used=True)


def _read(path: Path) -> tuple[str | None, str | None]:
    """Return the text of a mapping file, or why it cannot be read."""
    try:
        return read_mapping(path), None
    except ConfigError as error:
        return None, str(error)


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    """A mapping file as it was read.

    Attributes:
        text: None if it could not be read.
        problem: Why it could not be read.
        source: In use for this file; None if it has no version that was seen twice.
        is_used: The source is what the file contains.
        is_settled: It was read after its stamp had stayed the same for a whole round, so any later change gives it
            another stamp. Two changes within the resolution of the file system's times can give the same one.
    """

    stamp: Stamp
    text: str | None
    problem: str | None
    source: Source | None
    is_used: bool = False
    is_settled: bool = False


def _sources_of(files: Mapping[Path, _File]) -> list[Source]:
    return [file.source for file in files.values() if file.source is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A version of a mapping file that is not used, although its source is open."""

    name: str
    source: Source
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which versions of the mapping files are used.

    Attributes:
        in_use: The sources by name.
        rejected: By file.
        missing: Files of sources in use that do not exist at present.
        files: Files that exist.
    """

    in_use: Mapping[str, Source]
    rejected: Mapping[str, Rejected]
    missing: frozenset[str]
    files: frozenset[str]


def select_sources(before: Mapping[str, Source], read: Iterable[Source], missing_before: frozenset[str]) -> Selection:
    """Choose the sources to use: an open source belongs to its own file, and no edit closes it.

    Args:
        before: The sources in use until now, by name.
        read: What the files contain now.
        missing_before: Files of sources in use that were already missing the last time.
    """
    by_file = {source.file: source for source in read}
    by_name = _group_by_name(before, by_file.values())
    # A file that has only just disappeared may be about to be replaced, so its source stays for one more round.
    awaited = {
        name for name, source in before.items() if source.file not in by_file and source.file not in missing_before
    }
    in_use: dict[str, Source] = {}
    rejected: dict[str, Rejected] = {}
    for name, candidates in by_name.items():
        current = before.get(name)
        if current is None or current.closed is not None:
            in_use[name] = the_only(name, candidates)
        elif name in awaited:
            in_use[name] = current
            continue
        else:
            own = [source for source in candidates if source.file == current.file]
            chosen = the_only(name, own or candidates)
            in_use[name] = chosen if chosen.closed is None else current
        if in_use[name].closed is None:
            for source in candidates:
                if source is not in_use[name]:
                    reason = source.closed or str(the_only(name, candidates).closed)
                    rejected[source.file] = Rejected(name=name, source=source, reason=reason)

    for name, current in before.items():
        if name in by_name:
            continue
        renamed = by_file.get(current.file)
        # While the new name in its file is taken by another file, a source stays open under its old name.
        is_blocked = renamed is not None and current.closed is None and in_use[renamed.name] is not renamed
        if name in awaited or is_blocked:
            in_use[name] = current

    files = frozenset(by_file)
    missing = frozenset(source.file for source in in_use.values()) - files
    return Selection(in_use=in_use, rejected=rejected, missing=missing, files=files)


def _group_by_name(before: Mapping[str, Source], read: Iterable[Source]) -> dict[str, list[Source]]:
    """Group what the files contain by source; with errors in it, a file still belongs to the source it is open as."""
    open_names = {source.file: name for name, source in before.items() if source.closed is None}
    by_name: dict[str, list[Source]] = {}
    for source in read:
        name = source.name if source.closed is None else open_names.get(source.file, source.name)
        by_name.setdefault(name, []).append(source)
    return by_name


def _log_changes(before: Selection, after: Selection) -> None:
    """Log what became of the sources; each rejected version once, until it or the reason changes."""
    for file, rejected in after.rejected.items():
        known = before.rejected.get(file)
        if known is None or known.source is not rejected.source or known.reason != rejected.reason:
            log.error("source %s: the previous version stays in use: %s", rejected.name, rejected.reason)
    for name, source in after.in_use.items():
        previous = before.in_use.get(name)
        if source.closed is not None:
            if source != previous:
                log.warning("source %s is closed: %s", name, source.closed)
        elif previous is None or previous.closed is not None:
            log.info("source %s is open: POST %s (read from %s)", name, source.path, source.file)
        elif source is not previous:
            log.info("source %s: read again from %s", name, source.file)
    for name in before.in_use.keys() - after.in_use.keys():
        file = before.in_use[name].file
        reason = "names another source now" if file in after.files else "is gone"
        log.warning("source %s is removed: %s %s", name, file, reason)


_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING}
