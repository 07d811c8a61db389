"""PostgreSQL servers for one test, which can be restarted, slowed and given another time; a standby and a pooler."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal

import psycopg

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

    def __init__(self, directory: Path, environment: Mapping[str, str], name: str = "postgresql") -> None:
        self.port = free_port()
        self._data = directory / name
        self._log = directory / f"{name}.log"
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
        self._make_files()
        self._set(_SETTINGS | {"port": str(self.port)})
        self._control("start")
        return self

    def _make_files(self) -> None:
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync")

    def _set(self, settings: Mapping[str, str]) -> None:
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            error.add_note(f"--- the end of {self._log.name}\n{self._log.read_text()[-4_000:]}")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def stop(self) -> None:
        """End the server as a crash does, if it runs."""
        if (self._data / "postmaster.pid").exists():
            self._control("stop", "--mode=immediate")

    def restart(self, mode: Literal["fast", "immediate"]) -> None:
        """Restart the server: fast closes all connections, immediate is a crash with its recovery."""
        self._control("restart", f"--mode={mode}")

    def wait_for_standby(self, name: str) -> None:
        """Let each commit from now on wait for a standby, and return once it follows."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
            connection.execute("SELECT pg_reload_conf()")
            deadline = time.monotonic() + _PATIENCE
            while not connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'").fetchall():
                assert time.monotonic() < deadline, "the standby does not follow"
                time.sleep(0.05)

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


class Standby(PostgreSQLServer):
    """A server that follows another one, which waits for it with each commit, until it is promoted."""

    def __init__(self, directory: Path, primary: PostgreSQLServer) -> None:
        super().__init__(directory, {}, "standby")
        self._primary = primary

    def _make_files(self) -> None:
        address = f"--dbname=host=127.0.0.1 port={self._primary.port} user=postgres application_name=standby"
        self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", address)

    def __enter__(self) -> Standby:
        super().__enter__()
        self._primary.wait_for_standby("standby")
        return self

    def promote(self) -> None:
        """Let it take writes."""
        self._control("promote")


class PgBouncer:
    """A pooler in transaction mode before a server."""

    def __init__(self, directory: Path, server: PostgreSQLServer) -> None:
        self._port = free_port()
        self._server = server
        self._settings = directory / "pgbouncer.ini"
        self._log = directory / "pgbouncer.log"

    def __enter__(self) -> PgBouncer:
        program = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin") or missing("PgBouncer is not installed")
        self._settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server.port} user=postgres\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self._port}\nunix_socket_dir =\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 8\nmax_client_conn = 200\n"
        )
        # Like PostgreSQL it refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program, self._settings], cwd="/", user=user, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while not _accepts_connections(self._port):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, "PgBouncer does not start"
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/postgres"


def _accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


def _newest_binaries() -> Path:
    installed = sorted(_BINARIES.glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if not installed or (os.geteuid() == 0 and not _has_user("postgres")):
        missing(f"no PostgreSQL server is installed under {_BINARIES} that a test could start for itself")
    return installed[-1].parent


def _has_user(name: str) -> bool:
    return any(user.pw_name == name for user in pwd.getpwall())
