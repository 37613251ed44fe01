"""Workflows that start at times of the clock (OR-110…113)."""
