"""Mapping files as sources: open, or closed for a reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import ConfigError, MappingError, Problem
from gateway.mapping.compiler import parse
from gateway.mapping.model import MappingFile
from gateway.receive.regular_file import read_regular_file
from gateway.text import NAME
from gateway.verify import RequestField, secret_doubt, secret_problem


@dataclass(frozen=True, kw_only=True)
class Source:
    """A system that sends webhooks, as its mapping file and the environment describe it.

    Attributes:
        secrets: Any one of them proves a webhook.
        tokens: Verify tokens for handshakes; any one of them is accepted.
        closed: Why its webhooks are not accepted; None if they are.
        is_unused: It is closed because none of the variables for its secret is set, as for the shipped mapping files
            until somebody uses them.
        problems: Errors and warnings in the file.
    """

    name: str
    file: str
    mapping: MappingFile | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    tokens: tuple[str, ...] = field(default=(), repr=False)
    closed: str | None = None
    is_unused: bool = False
    problems: tuple[Problem, ...] = ()

    def require_mapping(self) -> MappingFile:
        """Return the mapping, whether or not the source is open: its secret may not be set.

        Raises:
            ConfigError: The file cannot be used; the text holds all problems.
        """
        if self.mapping is None:
            raise ConfigError("\n".join(map(str, self.problems)) or str(self.closed))
        return self.mapping

    @property
    def path(self) -> str:
        """The path that senders post to, with a placeholder for a secret in it."""
        at = self.mapping.verify.scheme.at if self.mapping is not None else None
        match at:
            case RequestField(part="path"):
                return f"/hooks/{self.name}/<secret>"
            case RequestField(part="query", name=name):
                return f"/hooks/{self.name}?{name}=<secret>"
        return f"/hooks/{self.name}"

    @property
    def has_secret_path(self) -> bool:
        """Whether the secret follows the source's name in the path."""
        at = self.mapping.verify.scheme.at if self.mapping is not None else None
        return at is not None and at.part == "path"

    @property
    def doubt(self) -> str | None:
        """Why an open source may still refuse every webhook; None if nothing indicates that."""
        if self.mapping is None or self.closed is not None:
            return None
        verify = self.mapping.verify
        doubt = secret_doubt(verify.scheme, self.secrets)
        return None if doubt is None else f"{' and '.join(verify.secret_env)}: {doubt}"


def load_sources(directory: Path, environ: Mapping[str, str]) -> dict[str, Source]:
    """Read all mapping files of a directory; an error in a file closes its own source only.

    Raises:
        ConfigError: The directory cannot be read, or there is no mapping file in it.
    """
    by_name: dict[str, list[Source]] = {}
    for path in mapping_files(directory):
        source = load_source(path, environ)
        by_name.setdefault(source.name, []).append(source)
    return {name: the_only(name, sources) for name, sources in by_name.items()}


def load_source(path: Path, environ: Mapping[str, str]) -> Source:
    """Read one mapping file and look up the secrets that it names."""
    try:
        text = read_mapping(path)
    except ConfigError as error:
        return Source(name=path.stem, file=str(path), closed=str(error))
    return source_of(text, path, environ, default_name=path.stem)


def mapping_files(directory: Path) -> list[Path]:
    """List the mapping files of a directory, without hidden ones: editors keep locks and copies in those.

    Raises:
        ConfigError: The directory cannot be read, or there is no mapping file in it.
    """
    try:
        if not directory.is_dir():
            raise ConfigError(f"there is no directory {directory}: set GATEWAY_MAPPINGS to where the mapping files are")
        paths = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise ConfigError(f"{directory} cannot be read ({error.strerror}): let the gateway's user read it") from error
    visible = [path for path in paths if not path.name.startswith(".")]
    if not visible:
        raise ConfigError(f"there is no mapping file (*.yaml) in {directory}")
    return visible


def read_mapping(path: Path) -> str:
    """Read the text of a mapping file.

    Raises:
        ConfigError: It is not a regular file in its directory, cannot be read, or is not text.
    """
    try:
        text = read_regular_file(path, path.parent).decode()
    except UnicodeDecodeError:
        # Without its cause, which holds the bytes.
        raise ConfigError(f"{path} is not UTF-8 text: save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def source_of(text: str, path: Path, environ: Mapping[str, str], *, default_name: str) -> Source:
    """Compile the text of a mapping file and look up the secrets that it names.

    Args:
        default_name: The source's name if the text has errors and no readable `source:`.
    """
    file = str(path)
    try:
        mapping, warnings = parse(text, file)
    except MappingError as error:
        # Even where the file is no valid YAML its source must be closed (503), not unknown (404).
        name = re.search(rf"^source:\s*({NAME.pattern})\s*(#|$)", text, re.MULTILINE)
        return Source(
            name=name[1] if name else default_name,
            file=file,
            closed=f"{file} has errors; gateway check shows them",
            problems=tuple(error.problems),
        )
    verify = mapping.verify
    secrets = tuple(secret for name in verify.secret_env for secret in secrets_in(environ.get(name, "")))
    return Source(
        name=mapping.source,
        file=file,
        mapping=mapping,
        secrets=secrets,
        tokens=tuple(secrets_in(environ.get(verify.token_env or "", ""))),
        closed=_why_closed(mapping, environ),
        is_unused=bool(verify.secret_env) and not secrets,
        problems=tuple(warnings),
    )


def _why_closed(mapping: MappingFile, environ: Mapping[str, str]) -> str | None:
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


def secrets_in(value: str) -> list[str]:
    """Split the value of a variable into secrets, one a line: during a change of secrets there are two.

    Quotation marks around a line belong to the file that it was copied from.
    """
    # Only line breaks separate: white space may be a part of a secret. Whether it is allowed is checked later.
    return [line for line in (_QUOTED.sub(r"\2", line) for line in re.split(r"[\r\n]+", value)) if line]


_QUOTED = re.compile(r"""\A(["'])(.*)\1\Z""")


def the_only(name: str, sources: Sequence[Source]) -> Source:
    """Return the one source of this name. If several files use the name, return a closed one: any may be the copy."""
    if len(sources) == 1:
        return sources[0]
    files = " and ".join(source.file for source in sources)
    closed = f"{files} {'both' if len(sources) == 2 else 'all'} say source: {name}; rename one"
    return Source(name=name, file=sources[-1].file, closed=closed)


def list_unused(sources: Iterable[Source]) -> str | None:
    """Return one line that names the sources that nobody uses yet; None if there are none."""
    names = [source.name for source in sources if source.is_unused]
    if not names:
        return None
    return f"closed, as their secrets are not set (gateway sources shows which): {', '.join(names)}"
