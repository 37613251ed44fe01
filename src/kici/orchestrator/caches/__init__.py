"""The user cache: what it holds and for whom, its quota and its end (AG-78, AG-79)."""
