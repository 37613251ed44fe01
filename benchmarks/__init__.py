"""`make bench`: every path of the budget table, measured on a real stack in a throw-away data directory."""
