"""`make faults`: kill, pause and cut real processes at chosen messages; nothing may be lost or doubled."""
