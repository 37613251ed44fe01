"""Warm interpreters, one per environment, kept for the next job (design §7)."""

from collections import OrderedDict
from contextlib import AsyncExitStack

from kici.agent.dependencies import OWN, Environment, Environments
from kici.agent.jobuser import JobUser
from kici.runner.host import RunAs, Zygote

KEEP = 4


class Zygotes:
    """One caller at a time. A zygote that died is started anew by the next job on it."""

    def __init__(self, environments: Environments, job_user: JobUser | None = None) -> None:
        self._environments = environments
        self._run_as = (
            None
            if job_user is None
            else RunAs(uid=job_user.uid, gid=job_user.gid, groups=job_user.groups, env=job_user.environment)
        )
        self._warm: OrderedDict[str, tuple[Zygote, AsyncExitStack]] = OrderedDict()

    async def warm_up(self) -> None:
        """Have the agent's own environment ready before the first job asks for it."""
        await self.get(OWN)

    async def get(self, environment: Environment) -> Zygote:
        """Raises ZygoteError when the interpreter cannot load the runner."""
        known = self._warm.get(environment.python)
        if known is not None:
            self._warm.move_to_end(environment.python)
            return known[0]
        async with AsyncExitStack() as stack:
            if environment.key is not None:
                stack.callback(self._environments.hold(environment.key).release)
            zygote = await stack.enter_async_context(
                Zygote.start(python=environment.python, run_as=self._run_as)
            )
            self._warm[environment.python] = (zygote, stack.pop_all())
        if len(self._warm) > KEEP:
            await self._close_oldest()
        return zygote

    async def close(self) -> None:
        while self._warm:
            await self._close_oldest()

    async def _close_oldest(self) -> None:
        _python, (_zygote, stack) = self._warm.popitem(last=False)
        await stack.aclose()
