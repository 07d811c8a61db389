"""`verify`: how a sender proves itself, and where the secret is."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network

from gateway import verify
from gateway.errors import Location
from gateway.mapping import yaml_nodes
from gateway.mapping.diagnostics import Diagnostics, is_empty, location_of, name_of, refuse_unknown_keys
from gateway.mapping.model import Network, Verify
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar

VERIFY_KEYS = ("scheme", "secret_env", "verify_token_env", "networks")
_VERIFY_EXAMPLE = "verify: {scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}"


def read_verification(top: ObjectNode, diagnostics: Diagnostics) -> Verify | None:
    match top.get("verify"):
        case None:
            text = f"'verify' is missing; say how the sender proves itself, e.g.  {_VERIFY_EXAMPLE}"
            diagnostics.error(top.where, "verify", f"{text}  (no check at all has to be said: verify: none)")
        case Scalar(value="none") as node:
            return Verify(where=node.where, scheme=verify.schemes()["none"], secret_env=())
        case ObjectNode() as node:
            return _verification(node, diagnostics)
        case Scalar(empty=True):
            pass
        case node:
            diagnostics.error(node.where, "verify", f"'verify' must be none, or an object, e.g.  {_VERIFY_EXAMPLE}")
    return None


def _verification(node: ObjectNode, diagnostics: Diagnostics) -> Verify | None:
    refuse_unknown_keys(node, VERIFY_KEYS, "in 'verify'", diagnostics, _INLINE_SCHEME)
    scheme = _scheme(node, diagnostics)
    secret_env = _variables(node, "secret_env", diagnostics)
    tokens = _variables(node, "verify_token_env", diagnostics)
    networks = _networks(node, diagnostics)
    if scheme is None:
        return None
    if scheme.kind == "none" and secret_env:
        diagnostics.error(
            location_of(node, "secret_env"), "verify", "the scheme 'none' checks no secret; remove 'secret_env'"
        )
    if scheme.kind != "none" and node.get("secret_env") is None:
        text = "'secret_env' is missing; it names the environment variable that holds the secret"
        diagnostics.error(node.where, "verify", text)
    _check_token(node, scheme, diagnostics)
    return Verify(
        where=node.where,
        scheme=scheme,
        secret_env=secret_env,
        token_env=tokens[0] if tokens else None,
        networks=networks,
    )


def _check_token(node: ObjectNode, scheme: verify.Scheme, diagnostics: Diagnostics) -> None:
    """Some senders show, before the first webhook, a token that the operator typed in there."""
    if scheme.asks_token and node.get("verify_token_env") is None:
        text = (
            f"the sender ({scheme.name}) shows a verify token when the webhook is set up; name the variable that"
            " holds yours:  verify_token_env: VERIFY_TOKEN"
        )
        diagnostics.warn(node.where, "verify-token", text)
    if not scheme.asks_token and node.get("verify_token_env") is not None:
        text = f"the scheme '{scheme.name}' has no verify token; remove 'verify_token_env'"
        diagnostics.error(location_of(node, "verify_token_env"), "verify-token", text)


def _networks(node: ObjectNode, diagnostics: Diagnostics) -> tuple[Network, ...]:
    written = node.get("networks")
    if written is None or is_empty(written):
        return ()
    items = written.items if isinstance(written, ListNode) else (written,)
    if not items:
        diagnostics.error(written.where, "networks", "'networks' must name at least one address or network")
    return tuple(found for item in items if (found := _network(item, diagnostics)) is not None)


def _network(node: Node, diagnostics: Diagnostics) -> Network | None:
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
    diagnostics.error(node.where, "networks", said)
    return None


_INLINE_SCHEME = "; a scheme of your own is written  scheme: {…}"


def _scheme(node: ObjectNode, diagnostics: Diagnostics) -> verify.Scheme | None:
    written = node.get("scheme")
    if written is None:
        diagnostics.error(node.where, "verify", f"'scheme' is missing, e.g.  {_VERIFY_EXAMPLE}")
        return None
    try:
        return verify.scheme_from(yaml_nodes.plain(written))
    except verify.SchemeError as error:
        if not is_empty(written):
            diagnostics.error(_below(written, error.key or ""), "scheme", error.problem)
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


def _variables(node: ObjectNode, key: str, diagnostics: Diagnostics) -> tuple[str, ...]:
    written = node.get(key)
    if written is None or is_empty(written):
        return ()
    # Only of secrets there may be several.
    names = written.items if isinstance(written, ListNode) and key == "secret_env" else (written,)
    for name in names:
        if not _VARIABLE.fullmatch(name_of(name)):
            # What stands here may be the secret itself, so it is not shown.
            text = f"'{key}' must name an environment variable; a secret never stands in a mapping file"
            diagnostics.error(name.where, "secret-env", text)
    if not names:
        diagnostics.error(written.where, "secret-env", f"'{key}' must name at least one environment variable")
    return tuple(name_of(name) for name in names)
