"""Orgs, orchestrator keys, orchestrators and their sources."""
