"""`kici runs`: runs as the Platform shows them, from a terminal."""

from kici.cli.runs.commands import app

__all__ = ["app"]
