"""Hatch's hook: a wheel carries the built dashboard and the documentation; an editable install reads both from
the checkout and does not wait."""

import os
import subprocess
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelContents(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        docs = os.path.join(self.root, "docs")
        for name in sorted(os.listdir(docs)):
            if name != "images":  # no page shows them, only the repository's README
                build_data["force_include"][os.path.join(docs, name)] = f"kici/docs/{name}"
        subprocess.run(
            ["sh", os.path.join(self.root, "scripts", "build_dashboard.sh")],
            check=True,
            env={**os.environ, "KICI_BUILD_PYTHON": sys.executable},
        )
