"""Compile `verify`: how the sender proves itself, and which environment variables hold the secrets."""

from __future__ import annotations

import re
from ipaddress import ip_interface, ip_network

from gateway import verify
from gateway.errors import Location
from gateway.mapping import yaml_nodes
from gateway.mapping.diagnostics import Diagnostics, is_empty, location_of, name_of
from gateway.mapping.model import Network, Verify
from gateway.mapping.yaml_nodes import ListNode, Node, ObjectNode, Scalar

#: The keys under `verify`.
VERIFY_KEYS = ("scheme", "secret_env", "verify_token_env", "networks")
#: How a complete entry looks, for messages and editors.
VERIFY_EXAMPLE = "{scheme: stripe, secret_env: STRIPE_WEBHOOK_SECRET}"


def read_verification(top: ObjectNode, diagnostics: Diagnostics) -> Verify | None:
    """Compile `verify`; None: it is missing or wrong, and reported."""
    match top.get("verify"):
        case None:
            text = f"'verify' is missing; say how the sender proves itself, e.g.  verify: {VERIFY_EXAMPLE}"
            text += "  (verify: none  switches the check off)"
            diagnostics.error(top.location, "verify", text)
        case Scalar(value="none") as node:
            return Verify(location=node.location, scheme=verify.schemes()["none"], secret_env=())
        case ObjectNode() as node:
            return _read_proof(node, diagnostics)
        case Scalar(empty=True):
            pass  # reported with the other empty values
        case node:
            text = f"'verify' must be none, or an object, e.g.  verify: {VERIFY_EXAMPLE}"
            diagnostics.error(node.location, "verify", text)
    return None


def _read_proof(node: ObjectNode, diagnostics: Diagnostics) -> Verify | None:
    hint = "; a scheme of your own is written  scheme: {…}"
    diagnostics.refuse_unknown_keys(node, VERIFY_KEYS, "in 'verify'", hint)
    scheme = _read_scheme(node, diagnostics)
    secret_env = _read_variables(node, "secret_env", diagnostics)
    token_env = _read_variables(node, "verify_token_env", diagnostics)
    networks = _read_networks(node, diagnostics)
    if scheme is None:
        return None

    if scheme.kind == "none" and secret_env:
        text = "the scheme 'none' checks no secret; remove 'secret_env'"
        diagnostics.error(location_of(node, "secret_env"), "verify", text)
    if scheme.kind != "none" and node.get("secret_env") is None:
        text = "'secret_env' is missing; it names the environment variable that holds the secret"
        diagnostics.error(node.location, "verify", text)

    # Some senders show a token before the first webhook, which the operator has chosen and typed in there.
    if scheme.asks_token and node.get("verify_token_env") is None:
        text = (
            f"the sender ({scheme.name}) shows a verify token when the webhook is set up; name the variable that"
            " holds yours:  verify_token_env: VERIFY_TOKEN"
        )
        diagnostics.warn(node.location, "verify-token", text)
    if not scheme.asks_token and node.get("verify_token_env") is not None:
        text = f"the scheme '{scheme.name}' has no verify token; remove 'verify_token_env'"
        diagnostics.error(location_of(node, "verify_token_env"), "verify-token", text)
    return Verify(
        location=node.location,
        scheme=scheme,
        secret_env=secret_env,
        token_env=token_env[0] if token_env else None,
        networks=networks,
    )


def _read_scheme(node: ObjectNode, diagnostics: Diagnostics) -> verify.Scheme | None:
    scheme = node.get("scheme")
    if scheme is None:
        text = f"'scheme' is missing, e.g.  verify: {VERIFY_EXAMPLE}"
        diagnostics.error(node.location, "verify", text)
        return None
    try:
        return verify.scheme_from(yaml_nodes.plain(scheme))
    except verify.SchemeError as error:
        if not is_empty(scheme):
            diagnostics.error(_location_below(scheme, error.key or ""), "scheme", error.problem)
        return None


def _location_below(node: Node, path: str) -> Location:
    """Return the place of a key by its path (``timestamp.unit``), or of the nearest key above it that exists.

    The items of a list are counted from 0 in it (``handshakes.0.method``).
    """
    name, _, rest = path.partition(".")
    if isinstance(node, ListNode) and name.isdigit():
        item = node.items[int(name)]
        return _location_below(item, rest) if rest else item.location
    for key, value in node.entries if isinstance(node, ObjectNode) else ():
        if key.value == name:
            is_above = rest and isinstance(value, ObjectNode | ListNode)
            return _location_below(value, rest) if is_above else key.location
    return node.location


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _read_variables(node: ObjectNode, key: str, diagnostics: Diagnostics) -> tuple[str, ...]:
    value = node.get(key)
    if value is None or is_empty(value):
        return ()
    # Several secrets may be valid at a time, but only one token.
    names = value.items if isinstance(value, ListNode) and key == "secret_env" else (value,)
    for name in names:
        if not _VARIABLE.fullmatch(name_of(name)):
            # The value is not shown: it may be the secret itself.
            text = f"'{key}' must name an environment variable; a secret never stands in a mapping file"
            diagnostics.error(name.location, "secret-env", text)
    if not names:
        diagnostics.error(value.location, "secret-env", f"'{key}' must name at least one environment variable")
    return tuple(name_of(name) for name in names)


def _read_networks(node: ObjectNode, diagnostics: Diagnostics) -> tuple[Network, ...]:
    value = node.get("networks")
    if value is None or is_empty(value):
        return ()
    items = value.items if isinstance(value, ListNode) else (value,)
    if not items:
        diagnostics.error(value.location, "networks", "'networks' must name at least one address or network")
    networks = []
    for item in items:
        text = str(item.value) if isinstance(item, Scalar) else ""  # ip_network takes a number for an address
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            network = None
        if network is None or "%" in text:
            problem = "'networks' must hold IP addresses or networks, such as 3.18.12.63 or 10.0.0.0/8"
        elif network.version == 6 and network.network_address.ipv4_mapped is not None:
            problem = f"'{text}' never matches: an IPv4 address is written as such, e.g.  10.0.0.0/8"
        elif "/" in text and ip_interface(text).ip != network.network_address:
            problem = f"'{text}' names one address of a network; did you mean {network}?"
        else:
            networks.append(network)
            continue
        diagnostics.error(item.location, "networks", problem)
    return tuple(networks)
