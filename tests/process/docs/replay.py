"""Executes the console blocks of a page as a reader would, and compares what they print with the page.

`scripts/record_docs.py` writes the real output into the pages.
"""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.process.docs.pages import Block, Tree, blocks, commands, session
from tests.support.stack import Stack

LIMIT_S = 90
_PLACEHOLDERS = (
    # Ids, times and sizes of one machine on one day.
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:?\d\d)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b(\d+ ?min )?\d+(\.\d+)? ?(ms|s|min)\b( ago)?|\bjust now\b"), "DURATION"),
    (re.compile(r"\b\d+(\.\d+)? ?([kM]?B|KiB)\b"), "SIZE"),
    (re.compile(r"\b[0-9a-f]{7,64}\b"), "HASH"),
    (re.compile(r"\b\d+\.\d+\.\d+\S*"), "VERSION"),
    (re.compile(r"kici-run-\w+"), "kici-run-X"),
    (re.compile(r"\| +\d+ [+-]+$"), "| LINES"),
    (re.compile(r"\b\d+ insertions?\(\+\)"), "LINES"),
    (re.compile(r"^Platform URL .*"), "Platform URL"),  # known a moment after the source was added
    # Steps side by side end in any order, so that another one may be the last branch of the tree.
    (re.compile(r"^[│├└─ ]+"), ""),
    (re.compile(r"[ \t]+"), " "),
)

_IN_BETWEEN = re.compile(r"[●○] .* (running|queued|pending)$")


def comparable(lines: Sequence[str]) -> Counter[str]:
    """Without what differs from one time to the next. Jobs that run side by side print in any order, and a
    follower may miss states in between."""
    found: Counter[str] = Counter()
    for line in lines:
        text = line
        for pattern, word in _PLACEHOLDERS:
            text = pattern.sub(word, text)
        if text.strip() and not _IN_BETWEEN.match(line):
            found[text.strip()] += 1
    return found


class Session:
    """A home with the repository `shop`, and a shell in it whose directory persists."""

    def __init__(self, folder: Path, wanted: Collection[str], stack: Stack | None = None) -> None:
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        (self.home / ".gitconfig").write_text(
            "[user]\n  name = Ada\n  email = ada@example.org\n"
            "[init]\n  defaultBranch = main\n[advice]\n  detachedHead = false\n"
        )
        (folder / "runtime").mkdir()
        self.env = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            # As in an environment that has kici and pytest, and nothing else.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "kici.testing.plugin",
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
            "KICI_RUN_DIR": str(folder / "runs"),
        }
        self.hidden = {
            str(self.home): "~",
            str(folder / "runs"): "/tmp",
            f"Linux {os.uname().release}": "Linux",
        }
        if stack is not None:
            self.env |= {
                "KICI_CONFIG_DIR": stack.environment["KICI_CONFIG_DIR"],
                "KICI_ADMIN_URL": stack.orchestrator_url,
                "KICI_ADMIN_TOKEN": stack.admin_token,
                "KICI_DATA_DIR": str(stack.data_dir),
            }
            self.hidden |= {
                stack.platform_url: "http://127.0.0.1:10142",
                stack.orchestrator_url: "http://127.0.0.1:10143",
                stack.org_id: "ORG",
            }
        self._place = folder / "place"
        self.root = self.home / "shop"
        self.cwd = self.home
        if "empty" not in wanted:
            self.root.mkdir()
            self.cwd = self.root
            (self.root / "README.md").write_text("# shop\n")
            self.shell("git init -q && git add . && git commit -qm 'Begin'")

    def shell(self, command: str) -> tuple[int, str]:
        """Exit code, and what it wrote, as a reader would see it."""
        done = subprocess.run(
            ["bash", "-c", f"{command}\ncode=$?; pwd >'{self._place}'; exit $code"],
            cwd=self.cwd,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        if self._place.exists():
            self.cwd = Path(self._place.read_text().strip())
        output = done.stdout
        for real, shown in sorted(self.hidden.items(), key=lambda pair: -len(pair[0])):
            output = output.replace(real, shown)
        return done.returncode, "\n".join(line.rstrip() for line in output.rstrip().splitlines())

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(0o755)


def is_executed(page: Path) -> bool:
    return any("run" in block.words for block in blocks(page))


def replay(page: Path, folder: Path, stack: Stack | None = None) -> Iterator[tuple[Block, str]]:
    """Goes through the page; yields each executed block with the body it ought to have."""
    place = Session(folder, session(page), stack)
    tree = Tree()
    for block in blocks(page):
        changed = tree.add(block)
        if changed is not None:
            place.write({changed: tree.files[changed]})
        if "run" not in block.words:
            continue
        shown: list[str] = []
        *before, last = commands(block)
        for command in (*before, last):
            code, output = place.shell(command.text)
            if stack is not None and "git push" in command.text:
                stack.find_run()  # a reader types slower than a run starts; this does not
            shown += [f"$ {command.text}", *([output] if output else [])]
            wanted = int(block.words.get("exit", "0")) if command is last else 0
            assert code == wanted, f"{block.place}: `{command.text}` exited with {code}\n{output}"
        yield block, "\n".join(shown) + "\n"


@contextmanager
def needed_stack(page: Path) -> Generator[Stack | None]:
    if "stack" not in session(page):
        yield None
        return
    with Stack.started(agents=1) as stack:
        yield stack


def differences(block: Block, real: str) -> str:
    """Empty when the page shows what happened."""
    shown, happened = comparable(block.body.splitlines()), comparable(real.splitlines())
    if shown == happened:
        return ""
    missing, new = shown - happened, happened - shown
    return "\n".join(
        [f"{block.place}: the page differs from what happens; run scripts/record_docs.py {block.page.name}"]
        + [f"  - {line}" for line in missing.elements()]
        + [f"  + {line}" for line in new.elements()]
    )


def record(page: Path, folder: Path) -> bool:
    """Writes the real output into the page where it differs; whether it did."""
    with needed_stack(page) as stack:
        done = list(replay(page, folder, stack))
    text = page.read_text("utf-8")
    changed = False
    for block, real in reversed(done):
        if differences(block, real):
            text = text[: block.start] + real + text[block.end :]
            changed = True
    if changed:
        page.write_text(text, "utf-8")
    return changed
