"""Where events come from: local repositories and webhook senders (OR-10…20)."""
