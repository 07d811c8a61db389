"""Tell whether a webhook comes from whom it says it does, by schemes that are data.

A scheme is an entry of schemes.yaml, or written in a mapping; only what data cannot say is code here.
"""

from gateway.verify.check import (
    MAX_CANDIDATES,
    MAX_HEADER,
    fingerprint,
    secret_headers,
    secret_parameters,
    verify,
)
from gateway.verify.diagnosis import likely_cause
from gateway.verify.handshakes import Reply, handshake_in, reply_to
from gateway.verify.keys import secret_doubt, secret_problem
from gateway.verify.places import Place
from gateway.verify.read_scheme import KEYS
from gateway.verify.scheme import (
    MAX_TOLERANCE,
    SENT_SECRETS,
    Algorithm,
    Encoding,
    Handshake,
    Kind,
    Scheme,
    SchemeError,
    SecretEncoding,
    Special,
    Unit,
)
from gateway.verify.scheme_table import entries, scheme_from, schemes
from gateway.verify.template import delivery_id

__all__ = [
    "KEYS",
    "MAX_CANDIDATES",
    "MAX_HEADER",
    "MAX_TOLERANCE",
    "SENT_SECRETS",
    "Algorithm",
    "Encoding",
    "Handshake",
    "Kind",
    "Place",
    "Reply",
    "Scheme",
    "SchemeError",
    "SecretEncoding",
    "Special",
    "Unit",
    "delivery_id",
    "entries",
    "fingerprint",
    "handshake_in",
    "likely_cause",
    "reply_to",
    "scheme_from",
    "schemes",
    "secret_doubt",
    "secret_headers",
    "secret_parameters",
    "secret_problem",
    "verify",
]
