"""`kici run local`: the workflows of a working tree, on this machine, under the agent's own runner.

The command compiles, makes an event from git, matches it, and runs the graph of jobs. Author code is
loaded by the compiler's child and by runners, never here.
"""

from kici.cli.local.commands import app, run_local_command

__all__ = ["app", "run_local_command"]
