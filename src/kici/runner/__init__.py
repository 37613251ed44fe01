"""Runs one job's steps in a process of its own, and lets a host watch it.

Two halves meet on `kici.protocol.runner_v1`. The host half (`host`, `session`, `masking`) lives in
the agent or in `kici run local` and never loads author code. The other half (`guardian`, `zygote`,
`child` and everything below it) runs in the workflow's own interpreter: standard library and msgspec only.
"""
