"""Warm interpreters, one per environment, kept for the next job (design §7)."""

from collections import OrderedDict
from contextlib import AsyncExitStack

from kici.agent.dependencies import OWN, Environment, Environments
from kici.runner.host import Zygote

KEEP = 4


class Zygotes:
    """One caller at a time. A zygote that died is started anew by the next job on it."""

    def __init__(self, environments: Environments) -> None:
        self._environments = environments
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
            zygote = await stack.enter_async_context(Zygote.start(python=environment.python))
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
