"""The front: routing, callers, static files, headers."""
