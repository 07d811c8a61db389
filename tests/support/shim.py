"""A library, preloaded into processes, that moves their clock and slows their disk."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.machine import missing

_SOURCE = Path(__file__).with_suffix(".c")
_STATE = struct.Struct("qq")  # seconds by which the clock is moved, and how often it was used


@dataclass(frozen=True, kw_only=True)
class Shim:
    """The library, and the file that controls the processes that run with it."""

    library: Path
    state: Path

    def environment(self, *, sync_seconds: float = 0.0) -> dict[str, str]:
        """Return the environment of a process that runs with the shim; each sync takes so many seconds longer."""
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
        """Return how often a process got a moved time or a slowed sync."""
        acted: int = _STATE.unpack(self.state.read_bytes())[1]
        return acted


def build_shim(directory: Path) -> Shim:
    """Compile the shim in a directory that other users can read; without gcc, skip the test, or fail in CI."""
    if shutil.which("gcc") is None:
        missing("gcc is not installed, and the shim that moves clocks and slows disks needs it")
    library, state = directory / "shim.so", directory / "shim.state"
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Werror"]
    subprocess.run(["gcc", *options, "-o", str(library), str(_SOURCE)], check=True)
    state.write_bytes(bytes(_STATE.size))
    state.chmod(0o666)
    return Shim(library=library, state=state)
