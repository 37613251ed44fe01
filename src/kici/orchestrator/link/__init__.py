"""The connection that this orchestrator dials to its Platform (design §8, PD-12…18).

`link` keeps it up, `session` speaks it, `projection` sends the outbox through it, `watches` live logs.
"""
