"""The environment, read once into a frozen value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast, get_args
from urllib.parse import urlsplit

from gateway.customerio.calls import WorkspaceIdentifiers
from gateway.customerio.connection import DEFAULT, DEFAULT_RATE, HOSTS, MAX_RATE, Connection, variable_prefix
from gateway.customerio.retry import Policy
from gateway.errors import ConfigError

DEFAULT_DATABASE = "sqlite:///gateway.db"
DEFAULT_MAPPINGS = "mappings"
DEFAULT_MAX_BODY = 1_048_576
DEFAULT_PORT = 8000
DEFAULT_RETENTION_DAYS = 30
DEFAULT_RETENTION_FAILED_DAYS = 90
DEFAULT_ALERT_MINUTES = 15

Default = TypeVar("Default", int, None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one process.

    Attributes:
        database_url: In the form that SQLAlchemy reads.
        mappings: The directory of the mapping files.
        retention_days: Days after which settled events are deleted.
        retention_failed_days: Days after which failed events are deleted, if that is later.
        max_body: Bytes of a webhook's body, also after it is unpacked.
        public_url: What precedes the path in the address that senders post to, for schemes that sign it.
        proxies: Number of proxies in front of the gateway that can be trusted to name their caller.
        alert_url: Where notices are posted.
        metrics_token: What readers of the metrics have to send; None: nothing.
        late_after: Seconds after which a waiting delivery causes a notice.
        connections: By name; the one without a name in its variables is ``default``.
    """

    database_url: str = field(repr=False)
    mappings: Path
    retention_days: int
    retention_failed_days: int
    max_body: int
    public_url: str | None
    proxies: int
    alert_url: str | None = field(repr=False)
    metrics_token: str | None = field(repr=False)
    late_after: float
    connections: Mapping[str, Connection]

    @property
    def embedded(self) -> bool:
        """Whether the database is a local file, which the gateway migrates by itself."""
        return self.database_url.startswith("sqlite")

    @property
    def missing_file(self) -> Path | None:
        """The SQLite file if it does not exist yet: to connect would create it."""
        file = Path(self.database_url.removeprefix("sqlite:///"))
        return file if self.embedded and not file.exists() else None


def load(environ: Mapping[str, str]) -> Config:
    """Read the environment.

    Raises:
        ConfigError: Some variables cannot be used; the message names all of them.
    """
    reader = _Reader(environ)
    config = Config(
        database_url=reader.database_url(),
        mappings=mappings_directory(environ),
        retention_days=reader.number("GATEWAY_RETENTION_DAYS", DEFAULT_RETENTION_DAYS, least=1, most=3_650),
        retention_failed_days=reader.number(
            "GATEWAY_RETENTION_FAILED_DAYS", DEFAULT_RETENTION_FAILED_DAYS, least=1, most=3_650
        ),
        max_body=reader.number("GATEWAY_MAX_BODY", DEFAULT_MAX_BODY, least=1, most=100 * 1_048_576),
        public_url=reader.url("GATEWAY_PUBLIC_URL"),
        proxies=reader.number("GATEWAY_PROXIES", 0, least=0, most=10),
        alert_url=reader.alert_url(),
        metrics_token=reader.metrics_token(),
        late_after=60.0 * reader.number("GATEWAY_ALERT_MINUTES", DEFAULT_ALERT_MINUTES, least=1, most=43_200),
        connections={connection.name: connection for connection in reader.connections()},
    )
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return config


def mappings_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of the mapping files, also for commands that need nothing else of the environment."""
    return Path(environ.get("GATEWAY_MAPPINGS", "").strip() or DEFAULT_MAPPINGS)


def listen_address(environ: Mapping[str, str], host: str | None = None, port: int | None = None) -> tuple[str, int]:
    """Return the host and port to listen on.

    A platform that sets PORT wants the port open to its network; on a person's own machine it stays private.

    Args:
        host: Takes the place of the default.
        port: Takes the place of PORT.

    Raises:
        ConfigError: PORT is not a port.
    """
    platform_port = environ.get("PORT", "").strip()
    if platform_port and not _is_port(platform_port):
        raise ConfigError("PORT must be a number from 1 to 65535")
    default_host = "0.0.0.0" if platform_port else "127.0.0.1"  # noqa: S104  # see above
    return host or default_host, port or int(platform_port or DEFAULT_PORT)


class _Reader:
    """Reads variables and collects the problems with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        return self._environ.get(name, "").strip() or None

    def number(self, name: str, default: Default, *, least: int, most: int) -> int | Default:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and least <= int(text[:18]) <= most):
            self.problems.append(f"{name} must be a whole number from {least} to {most}")
            return default
        return int(text)

    def flag(self, name: str, *, default: bool) -> bool:
        text = (self.text(name) or str(default)).lower()
        if text not in ("true", "false"):
            self.problems.append(f"{name} must be true or false")
        return text == "true"

    def url(self, name: str) -> str | None:
        text = self.text(name)
        if text is not None and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
            self.problems.append(f"{name} must be an address such as https://hooks.example.com")
        return text and text.rstrip("/")

    def alert_url(self) -> str | None:
        text = self.text("GATEWAY_ALERT_URL")
        if text is not None and not re.fullmatch(r"https?://[^\s/?#@]+([/?][^\s#]*)?", text):
            self.problems.append("GATEWAY_ALERT_URL must be an address such as https://hooks.slack.com/…")
        elif text is not None and _is_readable_by_the_network(text):
            self.problems.append("GATEWAY_ALERT_URL must start with https://: plain http would show it to the network")
        return text

    def metrics_token(self) -> str | None:
        text = self.text("GATEWAY_METRICS_TOKEN")
        # What RFC 6750 allows in the header.
        if text is not None and not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,500}=*", text):
            self.problems.append(
                "GATEWAY_METRICS_TOKEN must have 16 to 500 characters, letters, digits and - . _ ~ + /; make one with:"
                " openssl rand -hex 32"
            )
        return text

    def database_url(self) -> str:
        text = self.text("DATABASE_URL")
        if text is None and self.text("DYNO"):
            self.problems.append(
                "DATABASE_URL is not set, and a dyno's disk does not last: events on it would be lost with the"
                " next restart. Add PostgreSQL: heroku addons:create heroku-postgresql"
            )
        text = text or DEFAULT_DATABASE
        scheme, _, rest = text.partition("://")
        if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
            text = f"postgresql+psycopg://{rest}"
            problem = _problem_of_server(rest)
        elif scheme == "sqlite":
            problem = _problem_of_file(rest)
        else:
            problem = f"must start with postgresql:// or be a file such as {DEFAULT_DATABASE}"
            if text[0] in "\"'":
                problem += "; remove the quotation marks around it"
        if problem is None:
            return text
        self.problems.append(f"DATABASE_URL {problem}")
        return DEFAULT_DATABASE

    def connections(self) -> list[Connection]:
        matches = (re.fullmatch(r"CUSTOMERIO_([A-Z0-9_]+)_(SITE_ID|API_KEY)", name) for name in self._environ)
        names = {DEFAULT} | {match[1].lower().replace("_", "-") for match in matches if match}
        return [connection for name in sorted(names) if (connection := self._connection(name)) is not None]

    def _connection(self, name: str) -> Connection | None:
        prefix = variable_prefix(name)
        site_id, api_key = self.text(f"{prefix}SITE_ID"), self.text(f"{prefix}API_KEY")
        if site_id is None and api_key is None:
            return None
        if site_id is None or api_key is None:
            self.problems.append(f"{prefix}SITE_ID and {prefix}API_KEY must both be set")
            return None
        region = (self.text(f"{prefix}REGION") or "us").lower()
        if region not in HOSTS:
            self.problems.append(f"{prefix}REGION must be us or eu")
        return Connection(
            name=name,
            site_id=site_id,
            api_key=api_key,
            region=region,
            base_url=self._base_url(f"{prefix}BASE_URL"),
            policy=Policy(
                max=self.number(f"{prefix}RETRY_MAX", None, least=0, most=1_000),
                delay=self.number(f"{prefix}RETRY_DELAY_MS", 1_000, least=1, most=600_000) / 1_000,
                exponential=self.flag(f"{prefix}RETRY_EXPONENTIAL", default=True),
                jitter=self.flag(f"{prefix}RETRY_JITTER", default=True),
                all_errors=self.flag(f"{prefix}RETRY_ALL_ERRORS", default=False),
                max_age=self.number(f"{prefix}RETRY_MAX_AGE", 72 * 3_600, least=1, most=30 * 86_400),
            ),
            rate=self.number(f"{prefix}RATE", DEFAULT_RATE, least=1, most=MAX_RATE),
            identifiers=self._identifiers(f"{prefix}IDENTIFIERS"),
        )

    def _identifiers(self, name: str) -> WorkspaceIdentifiers | None:
        text = self.text(name)
        for known in get_args(WorkspaceIdentifiers):
            if text is not None and text.replace(" ", "").lower() == known:
                return cast(WorkspaceIdentifiers, known)
        if text is not None:
            self.problems.append(f"{name} must be {' or '.join(get_args(WorkspaceIdentifiers))}")
        return None

    def _base_url(self, name: str) -> str | None:
        url = self.url(name)
        if url is not None and urlsplit(url).path:
            self.problems.append(f"{name} must be a scheme and a host without a path")
        if url is not None and _is_readable_by_the_network(url):
            self.problems.append(f"{name} must start with https://: plain http would show the API key to the network")
        return url


def _problem_of_server(rest: str) -> str | None:
    """Return what is wrong with the URL of a PostgreSQL server after its scheme; never a part of it."""
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    example = "postgresql://user:password@host:5432/name"
    password_rule = "in a password write %40 for @, %2F for /, %23 for #, %3F for ?, %3A for : and %25 for %"  # noqa: S105  # a rule
    if re.search(r"""[\s"'<>\\#]""", rest):
        return f"must not hold white space, quotation marks, #, < or >; {password_rule}"
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        return f"has a % that begins no escape; {password_rule}"
    if "@" in user or "@" in path.partition("?")[0] or ":" in user.partition(":")[2] or "?" in user:
        return f"must be {example}; {password_rule}"
    if at and not user.partition(":")[0]:
        return f"has no user: write {example}"
    address, query, parameters = host.partition("?")
    has_host_parameter = "host=" in (parameters if query else path.partition("?")[2])
    if not address and not has_host_parameter:
        return f"has no host: write {example}"
    port = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]*)(?::(.*))?", address)
    if port is None or (port[1] is not None and not _is_port(port[1])):
        return f"must have a port from 1 to 65535 after its host: write {example}; {password_rule}"
    if not slash or not path.partition("?")[0]:
        return f"names no database: write {example}"
    return None


def _problem_of_file(rest: str) -> str | None:
    """Return what is wrong with the URL of a SQLite file after its scheme."""
    name = rest.removeprefix("/")
    if name == rest or not name.strip("/") or name == ":memory:" or name.endswith("/"):
        return (
            f"must be a file: {DEFAULT_DATABASE} is one in the working directory,"
            " sqlite:////var/lib/gateway.db (four slashes) one with its whole path"
        )
    if "?" in name or "#" in name or "%" in name or name[-1] in "\"'":
        return "must be the path of a file alone, without ?, #, % and quotation marks"
    return None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65_536


def _is_readable_by_the_network(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")
