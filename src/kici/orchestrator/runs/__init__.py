"""A run from its first row to its last: who writes its states, who tells others, who watches the clocks."""
