"""Reading runs from the projection, and asking the orchestrator for the rest."""
