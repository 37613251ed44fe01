"""Runs of an author's own working tree: where it is put, how it starts, what their dispatches bring (AU-123…126)."""
