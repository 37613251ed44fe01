"""Who jobs run as: another user than the agent, when the agent is root and was told one (AG-62).

Steps, and all they start, then cannot read the agent's token, memory, spool or other jobs' folders. The agent
still makes the work tree, with credentials that the job must not see, and gives it away when it is complete.
"""

import os
import pwd
import shutil

from msgspec import Struct

from kici.agent import process
from kici.agent.process import ProgramFailed
from kici.runtime.settings import BadSettings
from kici.spec.errors import KiciError

_GIVE_TIMEOUT_S = 300.0


class NotGiven(KiciError):
    """The work tree could not be handed to the job's user."""

    code = "job_user_failed"


class JobUser(Struct, frozen=True):
    name: str
    uid: int
    gid: int
    groups: list[int]
    home: str

    @property
    def environment(self) -> dict[str, str]:
        """What steps would otherwise inherit of root's."""
        return {"HOME": self.home, "USER": self.name}

    def give(self, path: str) -> None:
        """One file or folder that the agent has just made."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)

    async def give_tree(self, path: str) -> None:
        """Everything below `path`, links themselves instead of what they point to. Raises NotGiven."""
        program = shutil.which("chown")
        assert program is not None
        command = [program, "-R", "-h", "-P", f"{self.uid}:{self.gid}", "--", path]
        try:
            done = await process.run(
                command, env={"PATH": os.defpath, "LC_ALL": "C"}, timeout_s=_GIVE_TIMEOUT_S
            )
        except ProgramFailed as error:
            raise NotGiven(f"the work tree cannot be given to user {self.name}: {error}") from error
        if done.status:
            raise NotGiven(f"the work tree cannot be given to user {self.name}: {done.text[-500:]}")


def find(name: str) -> JobUser | None:
    """The user that KICI_JOB_USER names; None for an empty name. Raises BadSettings."""
    if not name:
        return None
    if os.geteuid() != 0:
        raise BadSettings(["KICI_JOB_USER: only an agent that runs as root can run jobs as another user"])
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise BadSettings([f"KICI_JOB_USER: there is no user {name!r} on this host"]) from None
    if entry.pw_uid == 0:
        raise BadSettings(["KICI_JOB_USER: root is no user to run jobs as; leave it empty instead"])
    return JobUser(
        entry.pw_name,
        entry.pw_uid,
        entry.pw_gid,
        os.getgrouplist(entry.pw_name, entry.pw_gid),
        entry.pw_dir,
    )


def open_ways(data_dir: str) -> None:
    """The job's user may pass through the agent's folders to its own, without seeing what else is there.

    Mirrors and environments are under names that cannot be guessed from outside, and readable; everything else
    stays shut.
    """
    os.umask(0o022)
    for name, mode in (
        ("", 0o711),
        ("work", 0o711),
        ("mirrors", 0o711),
        ("venvs", 0o711),
        ("spool", 0o700),
    ):
        path = os.path.join(data_dir, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chmod(path, mode)
