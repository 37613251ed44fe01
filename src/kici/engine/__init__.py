"""Decisions: what a state change means, which workflow an event starts, which agent fits. Pure."""
