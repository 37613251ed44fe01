"""The only variables that pass from a host's environment to author code (AG-63, AU-55)."""

from collections.abc import Mapping

PRIVATE_FOLDER = "private"  # for files of secrets, below the job's temporary folder
_INHERITED = ("PATH", "HOME", "USER", "SHELL", "LANG", "LC_ALL", "TERM", "TMPDIR", "TZ")
_DEFAULTS = {"FORCE_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Those of the allow-list that are set. Nothing else of a host reaches zygote, runner or step."""
    return {name: environ[name] for name in _INHERITED if name in environ}


def step_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What every step's environment begins with: the allow-list, then our defaults."""
    return inherited(environ) | _DEFAULTS
