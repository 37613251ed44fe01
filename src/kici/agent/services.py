"""What one job may ask its host for, and how it is answered: here, or by the orchestrator (AG-37).

Everything asked comes from author code and is checked: shape, size, how often, and for secret outputs how
many.
"""

import asyncio
import re
import time
from typing import Annotated, Any, Protocol

from msgspec import Meta, Struct

from kici.agent.caches import JobCache, checked
from kici.agent.requests import Relay, RequestFailed
from kici.protocol import secret_outputs
from kici.protocol.agent_v1 import JobDispatch
from kici.protocol.secret_outputs import MAX_OUTPUTS, MAX_VALUE
from kici.runner.host import UnknownMethodError

REFILL_PER_S = 50.0
BURST = 200.0

EVENT_S, API_S, APPROVAL_S = 5.0, 15.0, 7 * 86_400.0  # AG-12
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")

_Text = Annotated[str, Meta(min_length=1, max_length=256)]
_Labels = Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=64)]


class _Emit(Struct, frozen=True, rename="camel"):
    name: _Text
    payload: Any = None
    target_repos: Annotated[list[_Text], Meta(max_length=64)] = []


class _Query(Struct, frozen=True, rename="camel"):
    include: _Labels = []
    exclude: _Labels = []


class _Host(Struct, frozen=True, rename="camel"):
    agent_id: _Text


class _Nothing(Struct, frozen=True):
    pass


class _Approval(Struct, frozen=True, rename="camel"):
    step_index: int
    step_name: str
    clauses: list[dict[str, str]] = []
    reason: str = ""
    timeout_ms: int | None = None
    drift: str | None = None


# What the orchestrator answers: the shape of the params, and for how long we wait.
_RELAYED: dict[str, tuple[type[Struct], float]] = {
    "event.emit": (_Emit, EVENT_S),
    "inventory.query": (_Query, API_S),
    "inventory.get": (_Host, API_S),
    "infrastructure.list": (_Nothing, API_S),
    "approval.request": (_Approval, APPROVAL_S),
}
_LACKING = frozenset({"oidc.token", "provenance.attest", "host.reboot"})


class _Key(Struct, frozen=True):
    key: Annotated[str, Meta(max_length=256)]


class _Output(Struct, frozen=True):
    key: Annotated[str, Meta(max_length=256)]
    value: str


class _Mounted(Struct, frozen=True):
    """Secrets as a file: what of, and where; never what is in it."""

    keys: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=100)]
    path: Annotated[str, Meta(max_length=4096)]


class OnEvent(Protocol):
    """An entry for the run's time line."""

    def __call__(
        self, event_type: str, *, duration_ms: int | None = None, metadata: dict[str, Any] | None = None
    ) -> None: ...


class JobServices:
    """`kici.runner.host.RunnerServices` for one attempt of one job."""

    def __init__(self, dispatch: JobDispatch, relay: Relay, cache: JobCache, *, on_event: OnEvent) -> None:
        self._dispatch = dispatch
        self._on_event = on_event
        self._relay = relay
        self.cache = cache
        self._outputs: dict[str, str] = {}
        self._tokens = BURST
        self._filled_at = time.monotonic()

    async def request(self, job_id: str, method: str, params: dict[str, Any]) -> Any:
        """Raises RequestFailed, TransferFailed or UnknownMethodError."""
        await self._take_turn()
        match method:
            case "secrets.get":
                return self._secret(checked(method, params, _Key).key)
            case "secrets.list":
                return {"names": sorted(self._dispatch.secrets)}
            case "secrets.output":
                wanted = checked(method, params, _Output)
                return self._keep_output(wanted.key, wanted.value)
            case "secrets.mounted":
                mounted = checked(method, params, _Mounted)
                self._on_event("step.secret_mount", metadata={"keys": mounted.keys, "path": mounted.path})
                return {}
            case "cache.restore" | "cache.save" | "cache.commit":
                return await self._cached(method, params)
            case _ if method in _RELAYED:
                kind, timeout_s = _RELAYED[method]
                checked(method, params, kind)
                return await self.ask(method, params, timeout_s)
            case _ if method in _LACKING:
                raise RequestFailed("capability_missing", f"this server does not offer {method} yet")
            case _:
                raise UnknownMethodError(method)

    async def _cached(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """With an entry in the time line for what came of it (AG-78, AG-90)."""
        started = time.monotonic()
        outcome, result = "error", dict[str, Any]()
        try:
            match method:
                case "cache.restore":
                    result = await self.cache.restore(params, self.ask)
                    outcome = "hit" if result["hit"] else "miss"
                case "cache.save":
                    result = await self.cache.save(params, self.ask)
                    outcome = "skipped" if result["skip"] else ""  # its commit will tell
                case _:
                    result = await self.cache.commit(params, self.ask)
                    outcome = "saved"
        finally:
            if outcome:
                self._on_event(
                    "cache.restore" if method == "cache.restore" else "cache.save",
                    duration_ms=round((time.monotonic() - started) * 1000),
                    metadata={
                        "key": str(params.get("key"))[:512],
                        "outcome": outcome,
                        **({"matchedKey": result["matchedKey"]} if outcome == "hit" else {}),
                    },
                )
        return result

    async def ask(self, method: str, params: dict[str, Any], timeout_s: float) -> Any:
        """The orchestrator's answer. Raises RequestFailed."""
        dispatch = self._dispatch
        return await self._relay.ask(dispatch.job_id, dispatch.attempt, method, params, timeout_s=timeout_s)

    def sealed_outputs(self) -> dict[str, str]:
        """Name → value for the run's key. Without a key nobody can ever need them: only names are told.

        Raises SecretOutputBroken.
        """
        dispatch = self._dispatch
        public_key = dispatch.run_public_key
        if public_key is None:
            return dict.fromkeys(self._outputs, "")
        return {
            name: secret_outputs.seal(
                public_key,
                run_id=dispatch.run_id,
                job_id=dispatch.job_id,
                attempt=dispatch.attempt,
                name=name,
                value=value,
            )
            for name, value in self._outputs.items()
        }

    async def _take_turn(self) -> None:
        """A bucket that refills: author code in a loop must not drown the orchestrator, and just waits."""
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * REFILL_PER_S) - 1
        self._filled_at = now
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / REFILL_PER_S)

    def _secret(self, key: str) -> dict[str, Any]:
        secrets = self._dispatch.secrets
        if key not in secrets:
            names = ", ".join(sorted(secrets)) or "none"
            raise RequestFailed("secret_not_found", f"there is no secret {key!r}; available: {names}")
        return {"value": secrets[key], "backend": "kici", "scope": "run"}

    def _keep_output(self, key: str, value: str) -> dict[str, Any]:
        if self._dispatch.check_mode != "apply":
            raise RequestFailed("invalid_input", "no secret outputs in check mode")
        if _NAME.fullmatch(key) is None:
            raise RequestFailed(
                "invalid_input",
                f"{key!r} is no name of a secret output: letters, digits, '_', '.', '-', at most 128",
            )
        size = len(value.encode(errors="surrogatepass"))
        if size > MAX_VALUE:
            raise RequestFailed(
                "limit_exceeded", f"secret output {key!r} has {size} bytes; {MAX_VALUE} are allowed"
            )
        if key not in self._outputs and len(self._outputs) >= MAX_OUTPUTS:
            raise RequestFailed("limit_exceeded", f"a job may have {MAX_OUTPUTS} secret outputs")
        self._outputs[key] = value
        return {}
