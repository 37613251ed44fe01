"""The documentation as a test sees it: pages, their fenced blocks, and what each block stands for.

A fence's info string says more than the language:

    ```python                       a whole module: `.kici/workflows/<page>.py` unless `file=` says otherwise
    ```python file=.kici/parts.py   this file of the page's repository; any language
    ```python more                  goes on where the block of this file before it ended
    ```console run                  executed; the output below each `$` is what it printed. `exit=1` is expected
    ```console                      not executed; its `kici` commands must exist, with these options

Blocks in an HTML comment count too: files a page needs and does not show. `<!-- session: stack -->` gives the
page a whole KiCI; `<!-- session: stack empty -->` also a home without a repository.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
TEMPLATES = ROOT / "src" / "kici" / "cli" / "templates"
GENERATED = ("docs/reference/", "docs/llm/")

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_SESSION = re.compile(r"<!-- session: ([\w ]+) -->")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of the first line of its body
    start: int  # offsets of the body in the page's text
    end: int
    language: str
    words: Mapping[str, str]
    body: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def file(self) -> str | None:
        """Where its text goes in the page's repository."""
        if "file" in self.words:
            return self.words["file"]
        if self.language == "python":
            return f".kici/workflows/{self.page.stem.lower().replace('-', '_')}.py"
        return None


@dataclass(frozen=True)
class Command:
    """One `$` line of a console block, with what stands below it."""

    text: str
    output: Sequence[str]


def pages() -> list[Path]:
    """Every page that people write: docs, README, AGENTS.md of `kici init`."""
    written = [path for path in sorted(DOCS.rglob("*.md")) if not _is_generated(path)]
    return [ROOT / "README.md", ROOT / "examples" / "README.md", TEMPLATES / "AGENTS.md", *written]


def _is_generated(path: Path) -> bool:
    return path.relative_to(ROOT).as_posix().startswith(GENERATED)


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return list(_blocks(page, text))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    for match in _FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        yield Block(
            page=page,
            line=text.count("\n", 0, match.start("body")) + 1,
            start=match.start("body"),
            end=match.end("body"),
            language=language,
            words={name: value for name, _, value in (word.partition("=") for word in words)},
            body=match["body"],
        )


def session(page: Path) -> set[str]:
    """What the page needs besides a repository `shop` with one commit."""
    found = _SESSION.search(page.read_text("utf-8"))
    return set(found[1].split()) if found else set()


def commands(block: Block) -> list[Command]:
    """Commands with their output. A trailing backslash continues a command."""
    found: list[Command] = []
    lines = iter(block.body.splitlines())
    for line in lines:
        if line.startswith("$ "):
            text = line.removeprefix("$ ")
            while text.endswith("\\"):
                text = f"{text}\n{next(lines)}"
            found.append(Command(text, []))
        else:
            assert found, f"{block.place}: a console block begins with `$ `"
            found[-1] = Command(found[-1].text, [*found[-1].output, line])
    return found


def kici_calls(command: str) -> Iterator[list[str]]:
    """The calls of `kici` and `kici-admin` in a line of shell, as words without comments and redirections."""
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    call: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word and set(word) <= set("();|&"):
            if call and call[0] in {"kici", "kici-admin"}:
                yield call
            call = []
        elif word and set(word) <= set("<>"):
            skip = True
        elif skip:
            skip = False
        elif call or not re.fullmatch(r"[A-Z_]+=.*", word):
            call.append(word)


class Tree:
    """The files of a page's repository after each of its blocks."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def add(self, block: Block) -> str | None:
        """The file that changed."""
        file = block.file
        if file is None:
            return None
        before = self.files.get(file, "") if "more" in block.words else ""
        self.files[file] = f"{before}\n\n{block.body}" if before else block.body
        return file


def overwrites(tree: Tree, block: Block) -> bool:
    return block.file in tree.files and "more" not in block.words
