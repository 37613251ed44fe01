"""`kici run remote`: the working tree as it is, on a server's agents (AU-123…129)."""
