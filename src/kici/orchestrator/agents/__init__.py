"""Agents dial in, register, report and are told (AG-1…34)."""
