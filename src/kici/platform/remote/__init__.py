"""`kici run remote` as the Platform sees it: which cluster, pass on, read back (AU-123, PD §10)."""
