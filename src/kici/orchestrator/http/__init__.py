"""HTTP of the orchestrator: webhooks and the admin API."""
