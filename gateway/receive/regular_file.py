"""Read files that somebody else may have put there: regular ones inside one directory, of a bounded size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.errors import ConfigError

#: Bytes of a mapping file, and of a payload of its tests.
MAX_BYTES = 1_048_576


def read_regular_file(path: Path, directory: Path) -> bytes:
    """Read a regular file inside *directory*; links are followed only to what is inside of it too.

    Raises:
        ConfigError: The file is something else, is elsewhere, is too large, or cannot be read. The text holds nothing
            of its content.
    """
    try:
        root, real = Path(os.path.realpath(directory, strict=True)), Path(os.path.realpath(path, strict=True))
        if not real.is_relative_to(root):
            raise ConfigError(f"{path} is not in {directory}, or is a link out of it: put the file itself there")
        descriptor = _open_without_links(root, real.relative_to(root))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path} is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} has more than {MAX_BYTES} bytes; that is the most that is read")
    return content


def _open_without_links(root: Path, relative: Path) -> int:
    """Open a file below *root* step by step: a folder that is exchanged for a link meanwhile is an error.

    Opening a FIFO does not wait for its writer. The caller finds out what was opened.
    """
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in relative.parts[:-1]:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(relative.name or ".", flags, dir_fd=folder)
    finally:
        os.close(folder)
