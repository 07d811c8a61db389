"""The access log hides what may be a secret in an address, whatever the answer was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from gunicorn.config import Config

from gateway.receive.access_log import AccessLogger


@pytest.mark.parametrize(
    ("status", "address", "shown"),
    [
        ("202 ACCEPTED", "/hooks/shop", "/hooks/shop"),
        ("202 ACCEPTED", "/hooks/shop/s3cret?a=s3cret", "/hooks/shop/[redacted]?[redacted]"),
        ("405 METHOD NOT ALLOWED", "/healthz?token=s3cret", "/healthz?[redacted]"),
        ("200 OK", "/readyz?token=s3cret", "/readyz?[redacted]"),
        ("401 UNAUTHORIZED", "/metrics?token=s3cret", "/metrics?[redacted]"),
        ("404 NOT FOUND", "/hoks/s3cret?token=s3cret", "/hoks/[redacted]?[redacted]"),
    ],
)
def test_no_atom_of_the_log_holds_a_secret(status: str, address: str, shown: str) -> None:
    environ = {"RAW_URI": address, "REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/1.1"}
    answer = SimpleNamespace(status=status, headers=[], sent=0)
    took = SimpleNamespace(seconds=0, microseconds=0)
    atoms = AccessLogger(Config()).atoms(answer, SimpleNamespace(headers=[]), environ, took)
    assert atoms["{raw_uri}e"] == shown
    assert not [name for name, value in atoms.items() if "s3cret" in str(value)]
