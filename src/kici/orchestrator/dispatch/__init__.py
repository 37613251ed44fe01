"""From a queued row to a frame on an agent's socket."""
