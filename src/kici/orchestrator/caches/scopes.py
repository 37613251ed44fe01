"""Who sees an entry of the cache, beside the runs with a scope of their own (AG-79)."""

SHARED = "shared"
DEPENDENCIES = "dependencies"
"""Packed dependencies, of the whole organisation: the key tells all that they depend on. No job names it."""
