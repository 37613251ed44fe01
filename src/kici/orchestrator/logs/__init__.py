"""Step output from the agent's first byte to the reader's screen, in blocks nobody on the way opens.

`store` is the room's face: append, finalise, read, search, download, watch. `service` answers RPC
methods with it. Everything else is one noun each: `streams` (names), `index` (where lines are),
`segments` (live files), `archive` (ended ones), `reader` and `search` (decompress what is asked for).
"""
