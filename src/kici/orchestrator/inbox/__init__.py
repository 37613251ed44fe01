"""A delivery from its bytes to its runs: verify, store, answer; then lease, decide, start (design §4)."""
