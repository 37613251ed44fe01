"""What `kici-admin source install-hook` writes into a repository (OR-18)."""

from importlib.resources import files

import msgspec
from msgspec import Struct

from kici.orchestrator.lockfiles.git import git_dir, run_git
from kici.orchestrator.sources.service import SourceView
from kici.spec.errors import InvalidInput

MARK = "# KiCI push hook"

# A hook that was there before runs first and sees the same lines; what it says decides nothing here.
_SHELL = f"""#!/bin/sh
{MARK}, version 1. Written by `kici-admin source install-hook`; run it again after moving things.
here=$(dirname "$0")
pushed=$(cat)
if [ -x "$here/post-receive.before-kici" ]; then
    printf '%s\\n' "$pushed" | "$here/post-receive.before-kici" "$@"
fi
python=@PYTHON@
[ -x "$python" ] || python=python3
printf '%s\\n' "$pushed" | "$python" -I -S "$here/kici-post-receive.py"
exit 0
"""


class HookFile(Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    content: str
    executable: bool


class HookView(Struct, frozen=True, kw_only=True, rename="camel"):
    """`files` belong into `hooksDir`. `@PYTHON@` in them stands for an interpreter, quoted for the shell;
    a `post-receive` that does not contain `mark` is somebody else's and is kept beside ours."""

    repository: str
    hooks_dir: str
    mark: str
    files: list[HookFile]


async def hook_for(source: SourceView, *, base_url: str) -> HookView:
    """`base_url`: where the repository's machine reaches this orchestrator. Raises InvalidInput,
    RepositoryUnreadable."""
    if source.kind != "local":
        raise InvalidInput(f"source {source.name!r} is not a repository on this machine")
    await git_dir(source.config.path)
    hooks = (
        (await run_git(source.config.path, "rev-parse", "--path-format=absolute", "--git-path", "hooks"))
        .decode()
        .strip()
    )
    config = {"url": f"{base_url}{source.webhook_path}", "repository": source.config.repository}
    program = files("kici.orchestrator.sources").joinpath("post_receive.py").read_text(encoding="utf-8")
    return HookView(
        repository=source.config.path,
        hooks_dir=hooks,
        mark=MARK,
        files=[
            HookFile(name="kici-post-receive.py", content=program, executable=False),
            HookFile(
                name="kici-post-receive.json",
                content=msgspec.json.format(msgspec.json.encode(config)).decode() + "\n",
                executable=False,
            ),
            HookFile(name="post-receive", content=_SHELL, executable=True),  # last: the others are there
        ],
    )
