"""`verify`: how a sender proves itself, and where the secret is."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network

from gateway import verify
from gateway.errors import Location
from gateway.mapping import yaml_nodes
from gateway.mapping.compiler.diagnostics import Diagnostics, is_empty, name_of, place_of, refuse_unknown_keys
from gateway.mapping.model import Network, Verify
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar

KEYS = ("scheme", "secret_env", "verify_token_env", "networks")
_VERIFY_EXAMPLE = "verify: {scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}"


def read_verification(top: ObjectNode, notes: Diagnostics) -> Verify | None:
    match top.get("verify"):
        case None:
            text = f"'verify' is missing; say how the sender proves itself, e.g.  {_VERIFY_EXAMPLE}"
            notes.error(top.where, "verify", f"{text}  (no check at all has to be said: verify: none)")
        case Scalar(value="none") as node:
            return Verify(where=node.where, scheme=verify.schemes()["none"], secret_env=())
        case ObjectNode() as node:
            return _verification(node, notes)
        case Scalar(empty=True):
            pass
        case node:
            notes.error(node.where, "verify", f"'verify' must be none, or an object, e.g.  {_VERIFY_EXAMPLE}")
    return None


def _verification(node: ObjectNode, notes: Diagnostics) -> Verify | None:
    refuse_unknown_keys(node, KEYS, "in 'verify'", notes, _INLINE_SCHEME)
    scheme = _scheme(node, notes)
    secret_env = _variables(node, "secret_env", notes)
    tokens = _variables(node, "verify_token_env", notes)
    networks = _networks(node, notes)
    if scheme is None:
        return None
    if scheme.kind == "none" and secret_env:
        notes.error(place_of(node, "secret_env"), "verify", "the scheme 'none' checks no secret; remove 'secret_env'")
    if scheme.kind != "none" and node.get("secret_env") is None:
        text = "'secret_env' is missing; it names the environment variable that holds the secret"
        notes.error(node.where, "verify", text)
    _check_token(node, scheme, notes)
    return Verify(
        where=node.where,
        scheme=scheme,
        secret_env=secret_env,
        token_env=tokens[0] if tokens else None,
        networks=networks,
    )


def _check_token(node: ObjectNode, scheme: verify.Scheme, notes: Diagnostics) -> None:
    """Some senders show, before the first webhook, a token that the operator typed in there."""
    if scheme.asks_token and node.get("verify_token_env") is None:
        text = (
            f"the sender ({scheme.name}) shows a verify token when the webhook is set up; name the variable that"
            " holds yours:  verify_token_env: VERIFY_TOKEN"
        )
        notes.warn(node.where, "verify-token", text)
    if not scheme.asks_token and node.get("verify_token_env") is not None:
        text = f"the scheme '{scheme.name}' has no verify token; remove 'verify_token_env'"
        notes.error(place_of(node, "verify_token_env"), "verify-token", text)


def _networks(node: ObjectNode, notes: Diagnostics) -> tuple[Network, ...]:
    written = node.get("networks")
    if written is None or is_empty(written):
        return ()
    items = written.items if isinstance(written, ListNode) else (written,)
    if not items:
        notes.error(written.where, "networks", "'networks' must name at least one address or network")
    return tuple(found for item in items if (found := _network(item, notes)) is not None)


def _network(node: Node, notes: Diagnostics) -> Network | None:
    # As text: a number would be taken for an address too.
    text = str(node.value) if isinstance(node, Scalar) else ""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "%" in text:
        said = "'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8"
    elif network.version == 6 and network.network_address.ipv4_mapped is not None:
        said = f"'{text}' never matches: an IPv4 address is written as such, e.g.  10.0.0.0/8"
    elif "/" in text and ip_interface(text).ip != network.network_address:
        said = f"'{text}' names one address of a network; did you mean {network}?"
    else:
        return network
    notes.error(node.where, "networks", said)
    return None


_INLINE_SCHEME = "; a scheme of your own is written  scheme: {…}"


def _scheme(node: ObjectNode, notes: Diagnostics) -> verify.Scheme | None:
    written = node.get("scheme")
    if written is None:
        notes.error(node.where, "verify", f"'scheme' is missing, e.g.  {_VERIFY_EXAMPLE}")
        return None
    try:
        return verify.scheme_from(yaml_nodes.plain(written))
    except verify.SchemeError as error:
        if not is_empty(written):
            notes.error(_below(written, error.key or ""), "scheme", error.problem)
        return None


def _below(node: Node, path: str) -> Location:
    """Find the place of a key that is named by its path (``timestamp.unit``), or of what comes nearest."""
    name, _, rest = path.partition(".")
    entries = node.entries if isinstance(node, ObjectNode) else ()
    found = next(((key, value) for key, value in entries if key.value == name), None)
    if found is None:
        return node.where
    key, value = found
    return _below(value, rest) if rest and isinstance(value, ObjectNode) else key.where


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variables(node: ObjectNode, key: str, notes: Diagnostics) -> tuple[str, ...]:
    written = node.get(key)
    if written is None or is_empty(written):
        return ()
    # Only of secrets there may be several.
    names = written.items if isinstance(written, ListNode) and key == "secret_env" else (written,)
    for name in names:
        if not _VARIABLE.fullmatch(name_of(name)):
            # What stands here may be the secret itself, so it is not shown.
            text = f"'{key}' must name an environment variable; a secret never stands in a mapping file"
            notes.error(name.where, "secret-env", text)
    if not names:
        notes.error(written.where, "secret-env", f"'{key}' must name at least one environment variable")
    return tuple(name_of(name) for name in names)
