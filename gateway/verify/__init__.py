"""Verify that a webhook was sent by somebody who knows the secret of its source.

How a sender proves that is its scheme: data, as an entry of schemes.yaml or written in a mapping. Only what data cannot
express is code (`providers`).
"""

from gateway.verify.check import fingerprint, secret_headers, secret_parameters, verify
from gateway.verify.diagnosis import likely_cause
from gateway.verify.handshakes import handshake_in, reply_to
from gateway.verify.keys import secret_doubt, secret_problem
from gateway.verify.request_fields import RequestField
from gateway.verify.scheme import (
    MAX_TOLERANCE,
    SENT_SECRETS,
    Algorithm,
    Encoding,
    Handshake,
    Kind,
    Method,
    PrescribedResponse,
    Scheme,
    SchemeError,
    SecretEncoding,
    Special,
    Unit,
)
from gateway.verify.scheme_keys import KEYS
from gateway.verify.scheme_table import scheme_entries, scheme_from, schemes
from gateway.verify.template import delivery_id

__all__ = [
    "KEYS",
    "MAX_TOLERANCE",
    "SENT_SECRETS",
    "Algorithm",
    "Encoding",
    "Handshake",
    "Kind",
    "Method",
    "PrescribedResponse",
    "RequestField",
    "Scheme",
    "SchemeError",
    "SecretEncoding",
    "Special",
    "Unit",
    "delivery_id",
    "fingerprint",
    "handshake_in",
    "likely_cause",
    "reply_to",
    "scheme_entries",
    "scheme_from",
    "schemes",
    "secret_doubt",
    "secret_headers",
    "secret_parameters",
    "secret_problem",
    "verify",
]
