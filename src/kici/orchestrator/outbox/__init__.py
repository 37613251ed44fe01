"""Rows that must reach somebody else. `runs.projection` writes them, `link.projection` sends and removes
them; here is how far behind the sender is."""
