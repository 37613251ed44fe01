"""Whether anybody waits for what is about to be written: in SQL, so that the answer is exact in the transaction
that asks. Completions that nobody waits for are written as done and cost the router nothing."""

CHANNEL = "kici_event_channel"  # wakes the router; the seed's name (OR-91)
EVENT_TTL_S = 604_800  # of system events; OR-95


def unheard(org_id: str, *trigger_types: str) -> str:
    """A condition, true when no enabled workflow of the organisation (an SQL expression) has a trigger of any of
    these types."""
    types = ", ".join(f"'{name}'" for name in trigger_types)
    return f"NOT EXISTS (SELECT FROM registry_versions v WHERE v.org_id = {org_id} AND v.listens && ARRAY[{types}])"
