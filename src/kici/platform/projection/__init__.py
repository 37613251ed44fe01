"""The cached copy of run metadata, fed by the orchestrators' outboxes (PD-33)."""
