"""Hatch's hook: a wheel carries the built dashboard; an editable install does not wait for it."""

import os
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DashboardBuild(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        subprocess.run(
            ["sh", os.path.join(self.root, "scripts", "build_dashboard.sh")],
            check=True,
            env={**os.environ, "KICI_BUILD_PYTHON": sys.executable},
        )
