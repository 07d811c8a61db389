"""Compile a mapping file into rules, or say everything that is wrong with it, with places and fixes."""

from gateway.mapping.compiler.mapping_file import parse

__all__ = ["parse"]
