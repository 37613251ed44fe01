"""Bytes on their way between agents or command lines and the object store: signed, expiring URLs of ours."""
