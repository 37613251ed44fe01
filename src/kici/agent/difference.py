"""A working tree that came as the difference to a commit: what git knows there (AU-124).

Steps must see what they would see with the author's own `.git`: HEAD and its history, branches, tags, remotes,
and an index of HEAD. The repository is the agent's, made by a checkout of the base, so our git may work in it;
what the author says goes into it as data, and remotes come last, when only steps will read them.
"""

import os
import re
from collections.abc import Callable
from typing import ClassVar

from msgspec import Struct

from kici.agent.git import Git, GitFailed
from kici.agent.mirror import repository_config
from kici.agent.overlay import pack_file
from kici.agent.workspace import Workspace, attributes_file, remote_config
from kici.protocol.overlay import PACK_PATH, GitState, Manifest, OverlayBroken
from kici.spec.errors import KiciError

_OBJECT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"refs/(?:heads|tags|remotes)/[^\x00-\x20\x7f~^:?*\[\\]+")


class BaseGone(KiciError):
    """The commit below the difference is not there (any more)."""

    code: ClassVar[str] = "base_gone"


class Knowledge(Struct, frozen=True, kw_only=True):
    """A manifest's, checked: it is written into git's files and goes to git as arguments."""

    base: str
    sha: str
    state: GitState
    has_objects: bool


def knowledge(manifest: Manifest, base: str | None) -> Knowledge | None:
    """None for a whole tree; `base` is what the run says. Raises OverlayBroken."""
    if manifest.base != base:
        raise OverlayBroken("the overlay lies over another commit than its run")
    if base is None:
        return None
    state = manifest.git
    if state is None:
        raise OverlayBroken("an overlay over a commit must say what git knows")
    if not all(map(_OBJECT.fullmatch, (base, manifest.sha, *state.refs.values()))):
        raise OverlayBroken("the overlay names something that is no object id")
    heads = [] if state.branch is None else [f"refs/heads/{state.branch}"]
    if not all(_REF.fullmatch(ref) and ".." not in ref for ref in (*heads, *state.refs)):
        raise OverlayBroken("the overlay names something that is no ref")
    return Knowledge(base=base, sha=manifest.sha, state=state, has_objects=PACK_PATH in manifest.checksums)


async def restore_git(git: Git, workspace: Workspace, known: Knowledge, say: Callable[[str], None]) -> None:
    """Once the overlay is unpacked. Raises GitFailed, BaseGone."""
    here = ("-C", workspace.repository)
    os.unlink(attributes_file(workspace))
    if known.has_objects:
        pack = pack_file(workspace)
        try:
            await git.must(*here, "index-pack", "--stdin", "--fix-thin", stdin=pack)
        except GitFailed as error:
            raise _gone(error) from error
        os.unlink(pack)
    _write_refs(workspace, known, known.state.refs)
    try:
        await git.must(*here, "rev-list", "--objects", "--quiet", "HEAD", "--not", known.base)
    except GitFailed as error:
        raise _gone(error) from error
    every = await git.run(*here, "rev-list", "--objects", "--quiet", "--all", "--not", known.base)
    if every.status:
        say("Branches and tags of the author are left out: not all of their commits are here")
        _write_refs(workspace, known, {})
    # Of HEAD, and without a file's size and time: what is a change is decided as over the author's own index.
    os.unlink(os.path.join(workspace.git_folder, "index"))
    await git.must(*here, "read-tree", "HEAD")
    remotes = "".join(remote_config(name, url) for name, url in known.state.remotes.items())
    _write(workspace, "config", repository_config(known.sha, bare=False) + remotes)


def _gone(error: GitFailed) -> BaseGone:
    return BaseGone(
        f"commits that the working tree lies over are not in its repository: {error}. Run it again with --full"
    )


def _write_refs(workspace: Workspace, known: Knowledge, refs: dict[str, str]) -> None:
    head = known.sha
    if known.state.branch is not None:
        branch = f"refs/heads/{known.state.branch}"
        head, refs = f"ref: {branch}", {**refs, branch: known.sha}
    _write(workspace, "HEAD", f"{head}\n")
    _write(workspace, "packed-refs", "".join(f"{refs[ref]} {ref}\n" for ref in sorted(refs)))


def _write(workspace: Workspace, name: str, text: str) -> None:
    with open(os.path.join(workspace.git_folder, name), "w", encoding="utf-8") as file:
        file.write(text)
