"""The environment and the mapping files, read into frozen values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit

from gateway.customerio.connection import DEFAULT, DEFAULT_RATE, HOSTS, MAX_RATE, Connection, variable_prefix
from gateway.customerio.retry import Policy
from gateway.errors import ConfigError, MappingError, Problem
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.text import NAME
from gateway.verify import RequestField, secret_doubt, secret_problem

DEFAULT_DATABASE = "sqlite:///gateway.db"
DEFAULT_MAX_BODY = 1_048_576
DEFAULT_PORT = 8000
DEFAULT_RETENTION_DAYS = 30
DEFAULT_ALERT_MINUTES = 15


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the environment says.

    Attributes:
        database_url: As SQLAlchemy reads it.
        retention_days: Days after which what is done is removed.
        max_body: Bytes of a webhook's body, also after it is unpacked.
        public_url: The address that senders post to, for schemes that sign it.
        proxies: How many proxies before us can be trusted to say who called them.
        alert_url: Where notices are posted.
        late_after: Seconds after which a delivery that waits is worth a notice.
        connections: By name; the one without a name of its own is ``default``.
    """

    database_url: str = field(repr=False)
    mappings: Path
    retention_days: int
    max_body: int
    public_url: str | None
    proxies: int
    alert_url: str | None = field(repr=False)
    late_after: float
    connections: Mapping[str, Connection]

    @property
    def embedded(self) -> bool:
        """Whether the database is a file of our own, which is migrated without being asked."""
        return self.database_url.startswith("sqlite")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A mapping file as the receiver uses it: open, or closed for a reason.

    Attributes:
        secrets: Any one of them proves a webhook.
        tokens: Any one of them lets a handshake pass that asks for it.
        closed: Why no webhook can be taken; None when all is well.
        is_unused: It is closed because none of the variables that it names is set, as shipped files are until
            somebody wants them.
        problems: Errors and warnings of the file.
    """

    name: str
    file: str
    mapping: MappingFile | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)
    closed: str | None = None
    is_unused: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def path(self) -> str:
        """What senders post to, with a placeholder where their secret stands in it."""
        at = self.mapping.verify.scheme.at if self.mapping is not None else None
        match at:
            case RequestField(part="path"):
                return f"/hooks/{self.name}/<secret>"
            case RequestField(part="query", name=name):
                return f"/hooks/{self.name}?{name}=<secret>"
        return f"/hooks/{self.name}"


def load(environ: Mapping[str, str]) -> Config:
    """Read the environment.

    Raises:
        ConfigError: A variable cannot be used; all such variables are named at once.
    """
    reader = _Reader(environ)
    config = Config(
        database_url=reader.database_url(),
        mappings=Path(reader.text("GATEWAY_MAPPINGS") or "mappings"),
        retention_days=reader.number("GATEWAY_RETENTION_DAYS", DEFAULT_RETENTION_DAYS, least=1, most=3_650),
        max_body=reader.number("GATEWAY_MAX_BODY", DEFAULT_MAX_BODY, least=1, most=100 * 1_048_576),
        public_url=reader.url("GATEWAY_PUBLIC_URL"),
        proxies=reader.number("GATEWAY_PROXIES", 0, least=0, most=10),
        alert_url=reader.alert_url(),
        late_after=60.0 * reader.number("GATEWAY_ALERT_MINUTES", DEFAULT_ALERT_MINUTES, least=1, most=43_200),
        connections={each.name: each for each in reader.connections()},
    )
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return config


def load_sources(directory: Path, environ: Mapping[str, str]) -> dict[str, Source]:
    """Read all mapping files of a directory; what is wrong with a file closes its own source only.

    Raises:
        ConfigError: The directory cannot be read, or there is no mapping file in it.
    """
    claims: dict[str, list[Source]] = {}
    for path in mapping_files(directory):
        source = load_source(path, environ)
        claims.setdefault(source.name, []).append(source)
    return {name: the_only(name, sources) for name, sources in claims.items()}


def the_only(name: str, sources: Sequence[Source]) -> Source:
    """Give the one source of a name; where several files say that name, nobody knows which is meant: it is closed."""
    if len(sources) == 1:
        return sources[0]
    files = " and ".join(each.file for each in sources)
    closed = f"{files} {'both' if len(sources) == 2 else 'all'} say source: {name}; rename one"
    return Source(name=name, file=sources[-1].file, closed=closed)


def load_source(path: Path, environ: Mapping[str, str]) -> Source:
    """Read one mapping file and the secrets that it names."""
    try:
        text = read_mapping(path)
    except ConfigError as error:
        return Source(name=path.stem, file=str(path), closed=str(error))
    return source_of(text, path, environ, unnamed=path.stem)


def read_mapping(path: Path) -> str:
    """Read the text of a mapping file.

    Raises:
        ConfigError: It cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({type(error).__name__})") from error


def source_of(text: str, path: Path, environ: Mapping[str, str], *, unnamed: str) -> Source:
    """Compile the text of a mapping file and look up the secrets that it names.

    Args:
        unnamed: The source's name where the text has errors and says none.
    """
    file = str(path)
    try:
        mapping, warnings = parse(text, file)
    except MappingError as error:
        # The file may be beyond reading, and still its source is closed, not unknown.
        named = re.search(rf"^source:\s*({NAME.pattern})\s*(#|$)", text, re.MULTILINE)
        name = named[1] if named else unnamed
        return Source(
            name=name,
            file=file,
            closed=f"{file} has errors; gateway check shows them",
            problems=tuple(error.problems),
        )
    verify = mapping.verify
    secrets = tuple(each for name in verify.secret_env for each in secrets_in(environ.get(name, "")))
    return Source(
        name=mapping.source,
        file=file,
        mapping=mapping,
        secrets=secrets,
        tokens=tuple(secrets_in(environ.get(verify.token_env or "", ""))),
        closed=_closed(mapping, environ),
        is_unused=bool(verify.secret_env) and not secrets,
        problems=tuple(warnings),
    )


def told_of_unused(sources: Iterable[Source]) -> str | None:
    """Name the sources that nobody uses yet, in one line for all; None: there is none."""
    names = [source.name for source in sources if source.is_unused]
    if not names:
        return None
    return f"closed, as their secrets are not set (gateway sources shows which): {', '.join(names)}"


def doubt_of(source: Source) -> str | None:
    """Say why a source that is open may still refuse all that comes; None: nothing speaks against it."""
    if source.mapping is None or source.closed is not None:
        return None
    verify = source.mapping.verify
    doubt = secret_doubt(verify.scheme, source.secrets)
    return None if doubt is None else f"{' and '.join(verify.secret_env)}: {doubt}"


def secrets_in(value: str) -> list[str]:
    """Read the secrets that a variable holds, one on each line: while one replaces another there are two."""
    # A line break at its end is what remains of a copy; anything else may be part of a secret, and is judged later.
    return [line for line in value.replace("\r\n", "\n").split("\n") if line]


def mapping_files(directory: Path) -> list[Path]:
    """List the mapping files of a directory. Hidden ones are left out: editors keep locks and copies in them.

    Raises:
        ConfigError: The directory cannot be read, or there is no mapping file in it.
    """
    try:
        if not directory.is_dir():
            raise ConfigError(f"there is no directory {directory}: set GATEWAY_MAPPINGS to where the mapping files are")
        found = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read ({error.strerror}): let the gateway's user read it") from error
    shown = [path for path in found if not path.name.startswith(".")]
    if not shown:
        raise ConfigError(f"there is no mapping file (*.yaml) in {directory}")
    return shown


def _closed(mapping: MappingFile, environ: Mapping[str, str]) -> str | None:
    verify = mapping.verify
    for name in verify.secret_env:
        secrets = secrets_in(environ.get(name, ""))
        if not secrets:
            return f"{name} is not set: it holds the secret of source {mapping.source}"
        for secret in secrets:
            if problem := secret_problem(verify.scheme, secret):
                return f"{name}: {problem}"
    if verify.token_env is not None and not secrets_in(environ.get(verify.token_env, "")):
        return f"{verify.token_env} is not set: it holds the verify token of source {mapping.source}"
    if verify.scheme.signs_address and not environ.get("GATEWAY_PUBLIC_URL", "").strip():
        return (
            f"GATEWAY_PUBLIC_URL is not set: the sender of {mapping.source} signs the address that it posts to,"
            " such as https://hooks.example.com"
        )
    return None


class _Reader:
    """Reads variables and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        return self._environ.get(name, "").strip() or None

    @overload
    def number(self, name: str, default: int, *, least: int, most: int) -> int: ...

    @overload
    def number(self, name: str, default: None = None, *, least: int, most: int) -> int | None: ...

    def number(self, name: str, default: int | None = None, *, least: int, most: int) -> int | None:
        written = self.text(name)
        if written is None:
            return default
        if not (written.isascii() and written.isdigit() and least <= int(written[:18]) <= most):
            self.problems.append(f"{name} has to be a whole number from {least} to {most}")
            return default
        return int(written)

    def flag(self, name: str, *, default: bool) -> bool:
        written = (self.text(name) or str(default)).lower()
        if written not in ("true", "false"):
            self.problems.append(f"{name} has to be true or false")
        return written == "true"

    def url(self, name: str) -> str | None:
        written = self.text(name)
        if written is None:
            return None
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", written):
            self.problems.append(f"{name} has to be an address such as https://hooks.example.com")
        return written.rstrip("/")

    def alert_url(self) -> str | None:
        written = self.text("GATEWAY_ALERT_URL")
        if written is None:
            return None
        if not re.fullmatch(r"https?://[^\s/?#@]+([/?][^\s#]*)?", written):
            self.problems.append("GATEWAY_ALERT_URL has to be an address such as https://hooks.slack.com/…")
        elif _shows_to_the_network(written):
            self.problems.append(
                "GATEWAY_ALERT_URL has to start with https://: plain http would show it to the network"
            )
        return written

    def database_url(self) -> str:
        written = self.text("DATABASE_URL")
        if written is None and self.text("DYNO"):
            self.problems.append(
                "DATABASE_URL is not set, and a dyno's disk does not last: events on it would be lost with the"
                " next restart. Add PostgreSQL: heroku addons:create heroku-postgresql"
            )
        written = written or DEFAULT_DATABASE
        scheme, _, rest = written.partition("://")
        if scheme in ("postgres", "postgresql", "postgresql+psycopg"):
            return f"postgresql+psycopg://{rest}"
        if scheme == "sqlite" and rest.startswith("/") and rest not in ("/", "/:memory:"):
            return written
        self.problems.append("DATABASE_URL has to start with postgresql:// or be a file such as sqlite:///gateway.db")
        return DEFAULT_DATABASE

    def connections(self) -> list[Connection]:
        further = (re.fullmatch(r"CUSTOMERIO_([A-Z0-9_]+)_(SITE_ID|API_KEY)", name) for name in self._environ)
        names = {DEFAULT} | {match[1].lower().replace("_", "-") for match in further if match}
        return [made for made in map(self._connection, sorted(names)) if made is not None]

    def _connection(self, name: str) -> Connection | None:
        prefix = variable_prefix(name)
        site_id, api_key = self.text(f"{prefix}SITE_ID"), self.text(f"{prefix}API_KEY")
        if site_id is None and api_key is None:
            return None
        if site_id is None or api_key is None:
            self.problems.append(f"{prefix}SITE_ID and {prefix}API_KEY have to be set both")
            return None
        return Connection(
            name=name,
            site_id=site_id,
            api_key=api_key,
            region=self._region(f"{prefix}REGION"),
            base_url=self._base_url(f"{prefix}BASE_URL"),
            policy=self._policy(f"{prefix}RETRY_"),
            rate=self.number(f"{prefix}RATE", DEFAULT_RATE, least=1, most=MAX_RATE),
        )

    def _policy(self, prefix: str) -> Policy:
        return Policy(
            max=self.number(f"{prefix}MAX", least=0, most=1_000),
            delay=self.number(f"{prefix}DELAY_MS", 1_000, least=1, most=600_000) / 1_000,
            exponential=self.flag(f"{prefix}EXPONENTIAL", default=True),
            jitter=self.flag(f"{prefix}JITTER", default=True),
            all_errors=self.flag(f"{prefix}ALL_ERRORS", default=False),
            max_age=self.number(f"{prefix}MAX_AGE", 72 * 3_600, least=1, most=30 * 86_400),
        )

    def _region(self, name: str) -> str:
        region = (self.text(name) or "us").lower()
        if region not in HOSTS:
            self.problems.append(f"{name} has to be us or eu")
            return "us"
        return region

    def _base_url(self, name: str) -> str | None:
        written = self.url(name)
        if written is None:
            return None
        parts = urlsplit(written)
        if parts.path:
            self.problems.append(f"{name} has to be a scheme and a host without a path")
        if _shows_to_the_network(written):
            self.problems.append(f"{name} has to start with https://: plain http would show the API key to the network")
        return written


def _shows_to_the_network(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")
