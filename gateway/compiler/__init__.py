"""Compile a mapping file into rules, or say everything that is wrong with it, with places and fixes."""

from gateway.compiler.file import parse

__all__ = ["parse"]
