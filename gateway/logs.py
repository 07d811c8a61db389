"""What is logged, and how."""

from __future__ import annotations

import logging


def configure_logging() -> None:
    """Log to standard error, one line a record."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
