"""What of a working tree travels, and what the agent makes of it (AU-124, AU-125)."""

import base64
import os
import secrets
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from kici.agent import overlay as agent
from kici.cli.local.repository import Repository
from kici.cli.remote import pack as packing
from kici.cli.remote.pack import pack, pieces, summary
from kici.cli.remote.tree import leads_out, make_git, survey, without_credentials
from kici.protocol.overlay import MANIFEST_PATH, Manifest, seal, sealed_size
from kici.spec.errors import InvalidInput

ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], env=ENV, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A repository with everything that must stay at home."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    for name, content in {
        "app.py": "print(1)\n",
        "old.txt": "old\n",
        "gone.txt": "gone\n",
        "big.iso": "image\n",
        ".gitignore": "ignored.txt\n",
        ".kiciignore": "*.iso\nlocal/\n",
        "run.sh": "#!/bin/sh\n",
    }.items():
        (root / name).write_text(content)
    (root / "run.sh").chmod(0o755)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "First")
    git(root, "tag", "v1")
    git(root, "branch", "side")
    git(
        root, "remote", "add", "origin", "https://ada:s3cret-token@forge.example/ada/project.git?x=s3cret-q"
    )
    git(root, "config", "http.https://forge.example/.extraheader", "Authorization: s3cret-header")
    git(root, "config", "credential.helper", "store --file=s3cret-file")
    git(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    (root / ".git" / "hooks" / "post-checkout").write_text("#!/bin/sh\necho s3cret-hook\n")
    with (root / ".git" / "logs" / "HEAD").open("a") as reflog:
        reflog.write("clone: from https://ada:s3cret-reflog@forge\n")
    (root / "staged.key").write_text("s3cret-staged\n")
    git(root, "add", "staged.key")
    git(root, "rm", "-q", "--cached", "staged.key")
    (root / "staged.key").unlink()
    # what is not committed
    (root / "app.py").write_text("print(2)\n")
    (root / "gone.txt").unlink()
    (root / "new.txt").write_text("new\n")
    (root / "ignored.txt").write_text("s3cret-ignored\n")
    (root / "local").mkdir()
    (root / "local" / "note").write_text("s3cret-kiciignored\n")
    (root / "link").symlink_to("app.py")
    kici = root / ".kici"
    (kici / ".venv").mkdir(parents=True)
    (kici / ".venv" / "x").write_text("s3cret-venv\n")
    for name in (".secrets", ".env.local", "secrets.toml"):
        (kici / name).write_text("KEY=s3cret-local\n")
    return root


def packed(root: Path, tmp_path: Path) -> packing.Packed:
    repository = Repository(root)
    return pack(survey(repository), make_git(repository, tmp_path / "git"), tmp_path / "tree.tar.gz")


class Place:
    """As far as `kici.agent.overlay` looks at a workspace."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.repository = str(path / "repo")
        self.git_folder = str(path / "repo" / ".git")
        (path / "repo").mkdir(parents=True)


def unpacked(file: Path, place: Path) -> tuple[Path, Manifest]:
    key = secrets.token_bytes(32)
    sealed = place.parent / "sealed"
    sealed.write_bytes(b"".join(seal(key, pieces(file))))
    workspace = Place(place)
    manifest = agent.unpack(str(sealed), base64.b64encode(key).decode(), workspace)  # pyright: ignore[reportArgumentType]
    agent.install_git(workspace)  # pyright: ignore[reportArgumentType]
    return place / "repo", manifest


def test_the_agent_gets_the_tree_as_it_is(home: Path, tmp_path: Path):
    """AU-124: uncommitted, staged and untracked files, links and modes; deletions stay deleted."""
    before = sorted(path for path in home.rglob("*"))
    repo, manifest = unpacked(packed(home, tmp_path).path, tmp_path / "agent")
    assert sorted(path.name for path in repo.iterdir()) == [
        ".git",
        ".gitignore",
        ".kiciignore",
        "app.py",
        "link",
        "new.txt",
        "old.txt",
        "run.sh",
    ]
    assert (repo / "app.py").read_text() == "print(2)\n"
    assert os.readlink(repo / "link") == "app.py"
    assert (repo / "run.sh").stat().st_mode & 0o100
    assert manifest.sha == git(home, "rev-parse", "HEAD")
    assert manifest.deletions == ["gone.txt"]
    assert sorted(path for path in home.rglob("*")) == before  # nothing was made in the author's tree


def test_git_steps_work_there(home: Path, tmp_path: Path):
    """AU-124: history, branches, tags and remote-tracking branches; the changes are changes."""
    repo, _ = unpacked(packed(home, tmp_path).path, tmp_path / "agent")
    assert git(repo, "log", "-1", "--format=%s", "v1") == "First"
    assert git(repo, "branch", "--show-current") == "main"
    assert git(repo, "rev-parse", "side", "origin/main", "HEAD") == "\n".join(
        [git(home, "rev-parse", "HEAD")] * 3
    )
    assert git(repo, "status", "--porcelain").splitlines() == [
        "M app.py",
        " D big.iso",
        " D gone.txt",
        "?? link",
        "?? new.txt",
    ]
    assert git(repo, "fsck", "--full") == ""
    assert git(repo, "remote", "get-url", "origin") == "https://forge.example/ada/project.git"


def test_no_secret_leaves_this_machine(home: Path, tmp_path: Path):
    """AU-124: no credential of .git/config, no hook, no reflog, nothing that was only staged or is ignored."""
    file = packed(home, tmp_path).path
    with tarfile.open(file) as archive:
        names = archive.getnames()
        for member in archive:
            source = archive.extractfile(member)
            assert source is None or b"s3cret" not in source.read(), member.name
    assert not any(name.startswith((".git/hooks", ".git/logs")) for name in names)
    repo, _ = unpacked(file, tmp_path / "agent")
    loose = subprocess.run(
        ["git", "-C", str(repo), "cat-file", "--batch-all-objects", "--batch"],
        env=ENV,
        check=True,
        capture_output=True,
    )
    assert b"s3cret" not in loose.stdout
    assert file.stat().st_mode & 0o077 == 0


def test_the_summary_counts_what_changed(home: Path, tmp_path: Path):
    """AU-124."""
    tree = survey(Repository(home))
    done = packed(home, tmp_path)
    assert summary(tree, done).startswith("1 file changed, 2 new, 1 deleted (")
    assert summary(tree, done).endswith(" kB compressed)")
    assert done.sealed_bytes == len(b"".join(seal(bytes(32), pieces(done.path))))


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_the_sealed_size_is_known_before(size: int):
    assert sealed_size(size) == len(b"".join(seal(bytes(32), [bytes(size)])))


def test_a_detached_head_travels(home: Path, tmp_path: Path):
    git(home, "stash", "-q", "--include-untracked")
    git(home, "checkout", "-q", "--detach")
    git(home, "commit", "-q", "--allow-empty", "-m", "Loose")
    repo, _ = unpacked(packed(home, tmp_path).path, tmp_path / "agent")
    assert git(repo, "log", "-1", "--format=%s") == "Loose"
    assert git(repo, "branch", "--show-current") == ""
    assert git(repo, "stash", "list") == ""


def test_repositories_inside_travel_as_files(home: Path, tmp_path: Path):
    inner = home / "vendor" / "lib"
    inner.mkdir(parents=True)
    git(inner, "init", "-q", "-b", "main")
    (inner / "code.py").write_text("x = 1\n")
    git(inner, "config", "credential.helper", "s3cret-inner")
    repo, _ = unpacked(packed(home, tmp_path).path, tmp_path / "agent")
    assert (repo / "vendor" / "lib" / "code.py").read_text() == "x = 1\n"
    assert not (repo / "vendor" / "lib" / ".git").exists()


def test_links_that_lead_out_stay_at_home(home: Path, tmp_path: Path):
    (home / "out").symlink_to("/etc/passwd")
    (home / "up").symlink_to("../secret")
    tree = survey(Repository(home))
    assert {"out", "up"}.isdisjoint(tree.files)
    assert [line.split(" ")[0] for line in tree.left_out] == ["'out'", "'up'"]


@pytest.mark.parametrize(
    ("path", "target", "out"),
    [
        ("a", "b", False),
        ("a/b", "../c", False),
        ("a/b", "../../c", True),
        ("a", "x/../../y", True),
        ("a", "/x", True),
    ],
)
def test_which_links_lead_out(path: str, target: str, out: bool):
    assert leads_out(path, target) is out


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://token@forge.example/a.git", "https://forge.example/a.git"),
        ("https://user:pass@forge.example:8443/a.git", "https://forge.example:8443/a.git"),
        ("ssh://git:pass@forge.example/a.git", "ssh://git@forge.example/a.git"),
        ("git@forge.example:a/b.git", "git@forge.example:a/b.git"),
        ("/srv/a.git", "/srv/a.git"),
    ],
)
def test_addresses_lose_their_credentials(url: str, clean: str):
    """AU-124."""
    assert without_credentials(url) == clean


def test_too_large_trees_are_refused_with_the_largest_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """AU-124: > 500 MB refuses and lists the ten largest; the bound is lowered here."""
    for number in range(12):
        (home / f"data{number:02}").write_bytes(secrets.token_bytes(20_000 + number))
    monkeypatch.setattr(packing, "MAX_BYTES", 100_000)
    with pytest.raises(packing.TreeTooLarge) as refused:
        packed(home, tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 11
    assert ".kiciignore" in lines[0]
    assert any("data11" in line for line in lines)
    assert not any("data00" in line for line in lines)


def test_kici_must_be_at_the_top(home: Path):
    below = home / "service"
    below.mkdir()
    with pytest.raises(InvalidInput, match="at the top"):
        survey(Repository(below))


def test_the_manifest_comes_first_and_knows_every_file(home: Path, tmp_path: Path):
    """AU-124, AU-125."""
    with tarfile.open(packed(home, tmp_path).path) as archive:
        first, *others = archive.getmembers()
        source = archive.extractfile(first)
        assert source is not None
        manifest = msgspec.json.decode(source.read(), type=Manifest)
    assert first.name == MANIFEST_PATH
    assert {member.name for member in others} == set(manifest.checksums)
