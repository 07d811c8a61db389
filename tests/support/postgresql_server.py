"""A PostgreSQL server for one test, which can be restarted, slowed and given another time."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.support.machine import free_port, missing

_BINARIES = Path("/usr/lib/postgresql")
_PATIENCE = 60  # seconds that starting or stopping may take
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
}


class PostgreSQLServer:
    """A server on loopback, created when its context is entered and deleted when it is left.

    Args:
        directory: For its files; the user that the server runs as must be able to read it.
        environment: Added to the server's own environment.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._port = free_port()
        self._data = directory / "postgresql"
        self._log = directory / "postgresql.log"
        self._environment = {"PATH": os.defpath, "LC_ALL": "C", **environment}
        self._binaries = _newest_binaries()
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None

    def __enter__(self) -> PostgreSQLServer:
        self._data.mkdir(mode=0o700)
        self._log.touch()
        if self._user is not None:
            for path in (self._data, self._log):
                shutil.chown(path, self._user)
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")
        settings = _SETTINGS | {"port": str(self._port)}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._control("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._control("stop", "--mode=immediate")
        if error is not None:
            error.add_note(f"--- the end of {self._log.name}\n{self._log.read_text()[-4_000:]}")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def restart(self, mode: Literal["fast", "immediate"]) -> None:
        """Restart the server: fast closes all connections, immediate is a crash with its recovery."""
        self._control("restart", f"--mode={mode}")

    def _control(self, action: str, *options: str) -> None:
        log = f"--log={self._log}"
        self._run("pg_ctl", action, "--wait", f"--timeout={_PATIENCE}", log, *options)

    def _run(self, command: str, *arguments: str) -> None:
        with self._log.open("ab") as log:
            subprocess.run(
                [self._binaries / command, f"--pgdata={self._data}", *arguments],
                cwd="/",
                env=self._environment,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=2 * _PATIENCE,
                check=True,
            )


def _newest_binaries() -> Path:
    installed = sorted(_BINARIES.glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if not installed or (os.geteuid() == 0 and not _has_user("postgres")):
        missing(f"no PostgreSQL server is installed under {_BINARIES} that a test could start for itself")
    return installed[-1].parent


def _has_user(name: str) -> bool:
    return any(user.pw_name == name for user in pwd.getpwall())
