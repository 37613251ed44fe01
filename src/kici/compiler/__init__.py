"""Turns `.kici/workflows/*.py` into `.kici/kici.lock.json`. Author code runs in a child process only."""
