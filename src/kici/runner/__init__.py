"""Runs one job's steps in a process of its own, and lets a host watch it.

Two halves meet on `kici.protocol.runner_v1`. The host half (`host`, `session`, `desk`, `masking`,
`scrubbing`) lives in the agent or in `kici run local` and never loads author code. The other half
(`guardian`, `zygote`, `child` and everything below it) runs in the workflow's own interpreter: standard
library and msgspec only. There `child` loads the definitions and hands them to one of

    job             rules → init → caches → steps → hooks     `job`, with `steps`, `hooks`, `rules`, `drift`, …
    init, dynamic   functions of a job or workflow, generators          `setup`
    hooks           those of a workflow, once all has ended             `workflowhooks`

All of them open and close their rows through `rows`, and an `activity` runs the author's code of each.
"""
