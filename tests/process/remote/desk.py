"""An author at work, signed in to a stack."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.stack import Stack


class Desk:
    """An author's repository: a fresh one, or what is in the folder already."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack = stack
        self.root = folder
        if not folder.exists():
            folder.mkdir()
            self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Ada")
        self.git("config", "user.email", "ada@example.org")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def commit(self, subject: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", subject)

    def kici(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "kici.cli.main", *arguments],
            cwd=self.root,
            env={**self.stack.environment, "CI": "true"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.stack.logs(5)
        return done

    def remote(self, *arguments: str, check: bool = True) -> tuple[int, dict[str, Any], str]:
        """(exit code, document, what people read)"""
        done = self.kici("run", "remote", *arguments, "--json", check=check)
        return done.returncode, json.loads(done.stdout), done.stderr
