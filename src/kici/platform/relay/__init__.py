"""Webhook ingress: hand over to an orchestrator, or keep until one is there (PD-23…32)."""
