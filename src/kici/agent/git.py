"""git in a clean room: no system or user configuration, no hooks, no prompt, no surprise transports.

Credentials exist in the environment of the one git process that needs them (AG-38), never in argv, in a
URL or in a file.
"""

import base64
import os
import shutil
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from kici.agent import process
from kici.agent.process import Finished, ProgramFailed
from kici.spec.errors import KiciError

TIMEOUT_S = 120.0

# safe.directory: a source repository on this host usually belongs to somebody else; we only read it.
_CONFIG = """\
[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
\tfsmonitor = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
[fetch]
\tunpackLimit = 1
\twriteCommitGraph = false
[credential]
\thelper =
[http]
\tlowSpeedLimit = 1000
\tlowSpeedTime = 60
[advice]
\tdetachedHead = false
"""

# What reaching a remote may need from the operator's environment.
_PASSED = (
    "PATH",
    "HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "SSH_AUTH_SOCK",
    "TMPDIR",
)


class GitMissing(KiciError):
    code: ClassVar[str] = "git_missing"


class GitFailed(KiciError):
    """A git call ended with an error; the message holds git's own last words."""

    code: ClassVar[str] = "checkout_failed"

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class Git:
    """`folder` receives the configuration file that replaces the user's."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        program = shutil.which("git", path=environ.get("PATH"))
        if program is None:
            raise GitMissing("git is not on PATH")
        self.program = program
        config = os.path.join(folder, "gitconfig")
        scratch = f"{config}.{os.getpid()}"
        with open(scratch, "w", encoding="utf-8") as file:
            file.write(_CONFIG)
        os.replace(scratch, config)
        self.env = {name: environ[name] for name in _PASSED if name in environ} | {
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": config,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new"
            " -oConnectTimeout=20 -oServerAliveInterval=15",
        }

    async def run(
        self, *args: str, secret: Mapping[str, str] | None = None, stdin: str = os.devnull
    ) -> Finished:
        """One git call, at most 120 s. `secret` is added to its environment; it reads the file `stdin`."""
        env = {**self.env, **secret} if secret else self.env
        return await process.run([self.program, *args], env=env, timeout_s=TIMEOUT_S, stdin=stdin)

    async def must(
        self, *args: str, secret: Mapping[str, str] | None = None, stdin: str = os.devnull
    ) -> None:
        """As `run`; raises GitFailed unless git is content."""
        try:
            finished = await self.run(*args, secret=secret, stdin=stdin)
        except ProgramFailed as error:
            raise GitFailed(str(error), error.output) from error
        if finished.status:
            raise GitFailed(_last_words(finished.text, finished.status), finished.text)


def _last_words(said: str, status: int) -> str:
    """git's fatal line, else its last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))]
    return "git: " + ((fatal or lines or [f"exit code {status}"])[-1].removeprefix("fatal: "))


def credentials(url: str, token: str | None) -> dict[str, str]:
    """Environment that authenticates one git process at `url`'s host, and only there."""
    parts = urlsplit(url)
    if not token or parts.scheme not in ("http", "https"):
        return {}
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0] or "x-access-token"
    basic = base64.b64encode(f"{name}:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{host}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
    }


def without_credentials(url: str) -> str:
    """`url` as it may be shown and stored."""
    parts = urlsplit(url)
    if "@" not in parts.netloc or parts.scheme not in ("http", "https"):
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def local_folder(url: str) -> str | None:
    """The folder that `url` names on this host, if it does."""
    if url.startswith("file://"):
        parts = urlsplit(url)
        return parts.path if parts.netloc in ("", "localhost") else None
    return url if url.startswith("/") else None


def object_folder(url: str) -> str | None:
    """Objects of a repository on this host that can be borrowed instead of fetched."""
    folder = local_folder(url)
    if folder is None:
        return None
    for candidate in (os.path.join(folder, ".git", "objects"), os.path.join(folder, "objects")):
        if os.path.isdir(candidate) and os.access(candidate, os.R_OK | os.X_OK):
            return os.path.realpath(candidate)
    return None


def checked_url(url: str) -> str:
    """Refuses what git would take for an option or a helper program."""
    if not url or url.startswith("-") or "\n" in url or "::" in url.partition("/")[0]:
        raise GitFailed(f"repository URL is not allowed: {url[:200]!r}", "")
    return url
