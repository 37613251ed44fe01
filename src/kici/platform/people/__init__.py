"""Accounts, sessions, tokens: who somebody is."""
