"""A library put before the C library of a process, so that its clock can be moved and its disk be slow."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.machine import missing

_SOURCE = Path(__file__).with_suffix(".c")
_STATE = struct.Struct("qq")  # seconds by which the clock is moved, and how often a process noticed


@dataclass(frozen=True, kw_only=True)
class Shim:
    """The library, and the file by which processes that run with it are told what to do."""

    library: Path
    state: Path

    def environment(self, *, sync_seconds: float = 0.0) -> dict[str, str]:
        """Give the variables of a process that runs with the shim; each sync takes so many seconds more."""
        return {
            "LD_PRELOAD": str(self.library),
            "SHIM_STATE": str(self.state),
            "SHIM_SYNC_US": str(round(sync_seconds * 1_000_000)),
        }

    def move_clock(self, seconds: int) -> None:
        """Set the clock of all its processes to so many seconds after the machine's own."""
        with self.state.open("r+b") as file:
            file.write(struct.pack("q", seconds))

    def times_acted(self) -> int:
        """Tell how often a process was given a moved time or a slowed sync."""
        acted: int = _STATE.unpack(self.state.read_bytes())[1]
        return acted


def build_shim(directory: Path) -> Shim:
    """Compile the shim where processes of other users reach it too; without gcc, skip, or fail in CI."""
    if shutil.which("gcc") is None:
        missing("gcc is not installed, and the shim that moves clocks and slows disks needs it")
    library, state = directory / "shim.so", directory / "shim.state"
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    subprocess.run(["gcc", *options, "-o", str(library), str(_SOURCE)], check=True)
    state.write_bytes(bytes(_STATE.size))
    state.chmod(0o666)
    return Shim(library=library, state=state)
