"""Draft a mapping from a captured webhook: who, what and when are guessed, and the file says so."""

from gateway.mapping.draft.file import Draft, draft
from gateway.mapping.draft.plan import DraftError

__all__ = ["Draft", "DraftError", "draft"]
