"""Events that runs and this orchestrator make, and the workflows they start (OR-90…102)."""
