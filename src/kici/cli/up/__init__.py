"""`kici up`: the three tiers and PostgreSQL as supervised processes on one machine."""
