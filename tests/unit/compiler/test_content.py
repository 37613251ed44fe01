"""The content hash: one algorithm, two places that must agree (AU-99, AU-101)."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from kici.compiler.content import (
    content_hash,
    first_difference,
    hash_contents,
    lockfile_hash,
    read_contents,
    resolve_hash_files,
    sha256_of,
    source_paths,
)
from kici.spec.lock import SourceHash


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def git(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, env=environment
    )


def sources_of(root: Path) -> list[SourceHash]:
    return [
        SourceHash(path=path, sha256=sha256_of(content))
        for path, content in read_contents(root, source_paths(root))
    ]


def test_bytes_that_enter_the_hash(tmp_path: Path) -> None:
    write(tmp_path, {".kici/workflows/ci.py": "a\r\nb\n", ".kici/data.txt": "x", "uv.lock": "pins"})

    parts = [b"1\n", b".kici/data.txt", b"1", b"x", b".kici/workflows/ci.py", b"4", b"a\nb\n"]
    parts += [b"\n", b"uv.lock", b"4", b"pins"]
    by_hand = hashlib.sha256(
        parts[0] + b"\0".join(parts[1:4]) + b"\0".join(parts[4:7]) + parts[7] + b"\0".join(parts[8:])
    ).hexdigest()

    assert content_hash(tmp_path, ["uv.lock"], 1) == by_hand


@pytest.mark.parametrize(
    "change",
    [
        {".kici/workflows/ci.py": "changed"},
        {".kici/helpers/deep.py": "changed"},
        {".kici/new.json": "{}"},
        {".kici/.hidden": "x"},
        {"pinned.txt": "changed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_hash(tmp_path: Path, change: dict[str, str | bytes]) -> None:
    write(tmp_path, {".kici/workflows/ci.py": "a", ".kici/helpers/deep.py": "b", "pinned.txt": "c"})
    before = content_hash(tmp_path, ["pinned.txt"], 1)

    write(tmp_path, change)

    assert content_hash(tmp_path, ["pinned.txt"], 1) != before


@pytest.mark.parametrize(
    "path",
    [
        ".kici/kici.lock.json",
        ".kici/AGENTS.md",
        ".kici/tests/push_test.py",
        ".kici/types/kici_secrets.pyi",
        ".kici/workflows/__pycache__/ci.cpython-311.pyc",
        ".kici/.venv/lib/x.py",
        ".kici/environment/pyvenv.cfg",
        ".kici/environment/lib/x.py",
        ".kici/.secrets",
        ".kici/.env.local",
        ".kici/.mypy_cache/x.json",
        "outside.py",
    ],
)
@pytest.mark.parametrize("with_git", [False, True], ids=["plain", "git"])
def test_what_does_not_enter_the_hash(tmp_path: Path, path: str, with_git: bool) -> None:
    write(tmp_path, {".kici/workflows/ci.py": "a", ".kici/environment/pyvenv.cfg": ""})
    if with_git:
        git(tmp_path, "init", "-q")
    before = content_hash(tmp_path, [], 1)

    write(tmp_path, {path: "anything"})

    assert content_hash(tmp_path, [], 1) == before


def test_versions_and_missing_hash_files_change_the_hash(tmp_path: Path) -> None:
    write(tmp_path, {".kici/workflows/ci.py": "a", "pinned.txt": "c"})

    hashes = [
        content_hash(tmp_path, ["pinned.txt"], 1),
        content_hash(tmp_path, ["pinned.txt"], 2),
        content_hash(tmp_path, [], 1),
    ]
    (tmp_path / "pinned.txt").unlink()
    hashes.append(content_hash(tmp_path, ["pinned.txt"], 1))

    assert len(set(hashes)) == 3  # an absent file counts as not named
    assert hashes[2] == hashes[3]


def test_moving_bytes_between_files_changes_the_hash() -> None:
    joined = hash_contents(1, [("a", b"xy"), ("b", b"")], [])

    assert hash_contents(1, [("a", b"x"), ("b", b"y")], []) != joined
    assert hash_contents(1, [("a", b"xy")], [("b", b"")]) != joined
    assert hash_contents(1, [("b", b""), ("a", b"xy")], []) == joined


def test_author_tree_and_clean_checkout_agree(tmp_path: Path) -> None:
    author, agent = tmp_path / "author", tmp_path / "agent"
    write(
        author,
        {
            ".gitignore": "*.log\n",
            ".kici/workflows/ci.py": "a\n",
            ".kici/workflows/ü.py": "é\n",
            ".kici/noise.log": "ignored",
        },
    )
    (author / ".kici/link").symlink_to("workflows/ci.py")
    (author / ".kici/folder").symlink_to("workflows")
    git(author, "init", "-q")
    before_commit = content_hash(author, [], 1)
    git(author, "add", "-A")
    git(author, "commit", "-qm", "first")
    git(tmp_path, "clone", "-q", str(author), str(agent))

    with_git = content_hash(agent, [], 1)
    (agent / ".git").rename(tmp_path / "moved-away")
    without_git = content_hash(agent, [], 1)

    assert before_commit == content_hash(author, [], 1) == with_git == without_git
    assert ".kici/noise.log" not in source_paths(author)
    assert ".kici/link" in source_paths(agent)


def test_a_surrounding_repository_that_ignores_the_tree_is_no_excuse(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    inner = tmp_path / "build/checkout"
    write(tmp_path, {".gitignore": "build/\n", "build/checkout/.kici/workflows/ci.py": "a"})

    assert source_paths(inner) == [".kici/workflows/ci.py"]


def test_first_difference_names_the_path_and_the_kind(tmp_path: Path) -> None:
    write(tmp_path, {".kici/a.py": "a", ".kici/b.py": "b"})
    recorded = sources_of(tmp_path)
    assert first_difference(tmp_path, recorded) is None

    write(tmp_path, {".kici/b.py": "changed"})
    assert first_difference(tmp_path, recorded) == ".kici/b.py"

    (tmp_path / ".kici/a.py").unlink()
    assert first_difference(tmp_path, recorded) == ".kici/a.py (not committed?)"

    write(tmp_path, {".kici/a.py": "a", ".kici/b.py": "b", ".kici/c.py": "c"})
    assert first_difference(tmp_path, recorded) == ".kici/c.py (not in the lock file)"


def test_hash_file_patterns(tmp_path: Path) -> None:
    write(tmp_path, {"deploy/a.sh": "", "deploy/deep/b.sh": "", "deploy/c.txt": "", "uv.lock": ""})

    assert resolve_hash_files(
        tmp_path,
        ["deploy/**/*.sh", "!deploy/deep/*", "uv.lock", "none/*", "../x", "/etc/passwd", "a**", ".git/*"],
    ) == {
        "deploy/**/*.sh": ["deploy/a.sh", "deploy/deep/b.sh"],
        "!deploy/deep/*": ["deploy/deep/b.sh"],
        "uv.lock": ["uv.lock"],
        "none/*": [],
        "../x": [],
        "/etc/passwd": [],
        "a**": [],
        ".git/*": [],
    }


def test_dependency_lock(tmp_path: Path) -> None:
    assert lockfile_hash(tmp_path) is None

    write(tmp_path, {".kici/requirements.txt": "a==1 --hash=sha256:0\r\n"})
    assert lockfile_hash(tmp_path) == hashlib.sha256(b"pip\na==1 --hash=sha256:0\n").hexdigest()

    write(
        tmp_path, {"uv.lock": "root", "pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*"]\n'}
    )
    assert lockfile_hash(tmp_path) == hashlib.sha256(b"pip\na==1 --hash=sha256:0\n").hexdigest()

    write(tmp_path, {"pyproject.toml": '[tool.uv.workspace]\nmembers = ["packages/*", ".kici"]\n'})
    assert lockfile_hash(tmp_path) == hashlib.sha256(b"uv\nroot").hexdigest()

    write(tmp_path, {".kici/uv.lock": "own"})
    assert lockfile_hash(tmp_path) == hashlib.sha256(b"uv\nown").hexdigest()
