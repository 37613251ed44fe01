"""`kici init`: from a repository without workflows to one that compiles and runs (AU-145)."""

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import typer
from msgspec import Struct

from kici.cli.errors import errors_as_exit_codes
from kici.cli.git import default_branch, repository_root
from kici.spec.errors import InvalidInput, KiciError

app = typer.Typer(add_completion=False)

# name → what it shows
TEMPLATES = {
    "hello_world": "two jobs, the second reads what the first returned",
    "pr_checks": "pull requests: checks side by side, then tests",
    "python_package": "a Python package: tests on several versions, build, upload on a tag",
    "monorepo": "several packages in one repository: only what changed is tested",
    "docker_build": "build a container image, push it from the default branch",
    "release": "a tag builds, checks and publishes; a failure is told",
}
DEFAULT_TEMPLATES = ("hello_world", "pr_checks")
INSTALL_LIMIT_S = 120

_TEMPLATE_DIR = Path(__file__).with_name("templates")
_GITIGNORE = (".kici/.venv/", ".kici/.secrets", ".kici/.env.local", ".kici/secrets.toml", "__pycache__/")
_EDITOR_SETTINGS = '{\n  "python.analysis.extraPaths": [".kici"]\n}\n'


class PackageManager(StrEnum):
    UV = "uv"
    PIP = "pip"


class InstallFailed(KiciError):
    code: ClassVar[str] = "install_failed"


class PrivateIndex(Struct, frozen=True, kw_only=True):
    url: str
    name: str
    secret: str


@app.command("init")
def init_command(
    template: Annotated[
        list[str] | None, typer.Option(help=f"These workflows, of {', '.join(TEMPLATES)}. Repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    skip_install: Annotated[
        bool, typer.Option("--skip-install", help="Do not install the dependencies of .kici.")
    ] = False,
    package_manager: Annotated[
        PackageManager | None, typer.Option(help="Default: uv when it is there, else pip.")
    ] = None,
    no_agents_md: Annotated[bool, typer.Option("--no-agents-md", help="Leave out AGENTS.md.")] = False,
    private_index: Annotated[str, typer.Option(metavar="URL", help="A private Python index.")] = "",
    private_index_name: Annotated[str, typer.Option(help="Its name in pyproject.toml.")] = "private",
    private_index_secret: Annotated[
        str, typer.Option(metavar="ENVIRONMENT:SECRET", help="Where agents find its token.")
    ] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Set up .kici/ in this repository: workflows, a fixture, AGENTS.md and what editors need.

    Example: kici init --template hello_world --template python_package
    """
    with errors_as_exit_codes():
        if debug:
            os.environ["KICI_DEBUG"] = "true"
        index = _private_index(private_index, private_index_name, private_index_secret)
        interactive = sys.stdin.isatty() and sys.stdout.isatty() and not os.environ.get("CI")
        chosen = _chosen(template, ask=interactive)
        root = repository_root()
        branch = default_branch(root)
        for path, text in sorted(_files(chosen, branch, index, agents=not no_agents_md).items()):
            print(f"  {_create(root / path, text, force=force):8} {path}")
        print(f"  {_extend_gitignore(root):8} .gitignore")
        if not skip_install and (package_manager is not None or _came_from_an_index()):
            _install(root / ".kici", package_manager)
        if interactive and typer.confirm("Compile before every commit (a git hook)?", default=True):
            from kici.cli.hook import install

            print(f"  {install(root, prefer_git=False)}")
        _next_steps(branch, chosen, index)


def _private_index(url: str, name: str, secret: str) -> PrivateIndex | None:
    if not url:
        return None
    environment, colon, key = secret.partition(":")
    if secret and not (environment and colon and key):
        raise InvalidInput(f"--private-index-secret {secret!r} is not <environment>:<secret>")
    if not url.startswith("https://"):
        raise InvalidInput(f"--private-index {url!r} is not https: its token would travel in the clear")
    return PrivateIndex(url=url, name=name, secret=secret)


def _chosen(given: list[str] | None, *, ask: bool) -> list[str]:
    for name in given or ():
        if name not in TEMPLATES:
            raise InvalidInput(f"there is no template {name!r}; templates: {', '.join(TEMPLATES)}")
    if given:
        return list(dict.fromkeys(given))
    if not ask:
        return list(DEFAULT_TEMPLATES)
    print("Workflows to start with:")
    for number, (name, text) in enumerate(TEMPLATES.items(), 1):
        print(f"  {number}  {name:15} {text}")
    answer = typer.prompt("Numbers, with blanks between", default="1 2")
    names = list(TEMPLATES)
    picked = [int(word) for word in str(answer).replace(",", " ").split() if word.isdigit()]
    if not picked or not all(1 <= number <= len(names) for number in picked):
        raise InvalidInput(f"{answer!r}: give numbers from 1 to {len(names)}")
    return [names[number - 1] for number in dict.fromkeys(picked)]


def _files(chosen: list[str], branch: str, index: PrivateIndex | None, *, agents: bool) -> dict[str, str]:
    """Path below the repository → content."""
    from kici.runtime.buildinfo import build_info

    major, minor, *_ = build_info().version.split(".")
    project = _template("pyproject.toml").replace(
        '"kici"', f'"kici>={major}.{minor},<{major}.{int(minor) + 1}"'
    )
    if index is not None:
        project += f'\n[[tool.uv.index]]\nname = "{index.name}"\nurl = "{index.url}"\n'
    files = {
        ".kici/pyproject.toml": project,
        ".kici/tests/push_test.py": _template("push_test.py").replace('"main"', f'"{branch}"'),
        ".kiciignore": _template("kiciignore"),
        ".vscode/settings.json": _EDITOR_SETTINGS,
    }
    if agents:
        files[".kici/AGENTS.md"] = _template("AGENTS.md")
    for name in chosen:
        files[f".kici/workflows/{name}.py"] = _template(f"{name}.py").replace('"main"', f'"{branch}"')
    return files


def _template(name: str) -> str:
    return (_TEMPLATE_DIR / name).read_text("utf-8")


def _create(path: Path, text: str, *, force: bool) -> str:
    """What happened to the file, in one word."""
    existed = path.exists()
    if existed and not force:
        return "kept"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return "replaced" if existed else "created"


def _extend_gitignore(root: Path) -> str:
    path = root / ".gitignore"
    before = path.read_text("utf-8") if path.exists() else ""
    missing = [entry for entry in _GITIGNORE if entry not in before.splitlines()]
    if not missing:
        return "kept"
    gap = "" if not before or before.endswith("\n") else "\n"
    path.write_text(before + gap + "\n".join(missing) + "\n", "utf-8")
    return "extended" if before else "created"


def _came_from_an_index() -> bool:
    """A kici that was installed from a folder or a file may be on no index, and somebody else's may be there
    under its name: then nothing is installed unasked. PEP 610 says where it came from."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution("kici").read_text("direct_url.json") is None
    except PackageNotFoundError:
        return False


def _install(folder: Path, wanted: PackageManager | None) -> None:
    """For the editor and for `kici compile`. What cannot be installed is told, and stops nothing: kici
    itself compiles and runs without it."""
    from shutil import which

    manager = wanted or (PackageManager.UV if which("uv") else PackageManager.PIP)
    if manager is PackageManager.UV:
        commands = [["uv", "sync", "--project", str(folder), "--quiet"]]
    else:
        python = folder / ".venv" / "bin" / "python"
        commands = [
            [sys.executable, "-m", "venv", str(folder / ".venv")],
            [str(python), "-m", "pip", "install", "--quiet", *_dependencies(folder)],
        ]
    print(f"  installing the dependencies of .kici with {manager} …", flush=True)
    try:
        for command in commands:
            _run(command)
    except InstallFailed as failed:
        print(f"  not installed: {failed}", file=sys.stderr)
        print("  kici uses its own Python until you run `uv sync --project .kici`", file=sys.stderr)


def _dependencies(folder: Path) -> list[str]:
    import tomllib

    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    return list(project["project"].get("dependencies", ()))


def _run(command: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=INSTALL_LIMIT_S, env=env
        )
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"{command[0]} did not end within {INSTALL_LIMIT_S} s") from None
    except OSError as error:
        raise InstallFailed(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise InstallFailed(lines[-1] if lines else f"{command[0]} exited with code {done.returncode}")


def _next_steps(branch: str, chosen: list[str], index: PrivateIndex | None) -> None:
    print(f"\nThe workflows start on the branch {branch}. Next:\n")
    print("  kici compile          make .kici/kici.lock.json, and commit it with the workflows")
    print("  kici preview push     what a push would start, and why")
    print("  kici run local push   run it here")
    if "pr_checks" in chosen:
        print("  kici run local pr     on a branch: run what a pull request would start")
    if index is not None:
        secret = index.secret or "<environment>:<secret>"
        print("\nAgents need the index too: in each workflow that uses it, add\n")
        print(f'  registries=[Registry(url="{index.url}", token_secret="{secret}")]')
