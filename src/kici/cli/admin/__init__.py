"""`kici-admin`: the operator's command line, over the orchestrator's admin API."""
