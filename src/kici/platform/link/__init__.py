"""The connection that an orchestrator dials: session, requests to it, log watches (PD-12…18, PD-38…41)."""
