"""Schema and migrations of this tier."""
