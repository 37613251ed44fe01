"""`ctx.secrets`: values on request, by name, never in anybody's environment unasked (AG-64)."""

import os
from collections.abc import Sequence
from pathlib import Path

from kici.protocol.runner_v1 import AddMask
from kici.runner.activity import Activity
from kici.runner.requests import RequestFailedError
from kici.sdk.calls import TrackedCall
from kici.sdk.errors import CapabilityMissingError, NotAvailableLocallyError, SecretNotFoundError
from kici.sdk.results import SecretMeta
from kici.sdk.words import environment_name


class StepSecrets:
    """Names that were read are reported when the row ends; files vanish with it."""

    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def get(self, key: str, /) -> TrackedCall[str]:
        return self._activity.tracked(self._get(key), f"ctx.secrets.get({key!r})")

    def expose(self, key: str, /, *, as_: str | None = None) -> TrackedCall[None]:
        name = environment_name(key if as_ is None else as_)
        return self._activity.tracked(self._expose(key, name), f"ctx.secrets.expose({key!r})")

    def has(self, key: str, /) -> TrackedCall[bool]:
        return self._activity.tracked(self._has(key), f"ctx.secrets.has({key!r})")

    def list(self) -> TrackedCall["list[str]"]:
        return self._activity.tracked(self._names(), "ctx.secrets.list()")

    def get_meta(self, key: str, /) -> TrackedCall[SecretMeta]:
        return self._activity.tracked(self._meta(key), f"ctx.secrets.get_meta({key!r})")

    def mount_file(
        self,
        sources: str | Sequence[str],
        /,
        *,
        divider: str = "",
        mode: int = 0o600,
        name: str | None = None,
    ) -> TrackedCall[Path]:
        return self._activity.tracked(
            self._mount(sources, divider, mode, name), f"ctx.secrets.mount_file({sources!r})"
        )

    def expose_file(
        self,
        env_var: str,
        sources: str | Sequence[str],
        /,
        *,
        divider: str = "",
        mode: int = 0o600,
        name: str | None = None,
    ) -> TrackedCall[Path]:
        return self._activity.tracked(
            self._expose_file(environment_name(env_var), sources, divider, mode, name),
            f"ctx.secrets.expose_file({env_var!r}, {sources!r})",
        )

    async def _found(self, key: str) -> dict[str, str]:
        try:
            found: dict[str, str] = await self._activity.services.requests.call("secrets.get", {"key": key})
        except RequestFailedError as error:
            if error.reason != "secret_not_found":
                raise
            raise SecretNotFoundError(key, await self._names()) from None
        self._activity.services.link.send(AddMask(value=found["value"]))
        return found

    async def _get(self, key: str) -> str:
        found = await self._found(key)
        self._activity.notes.secrets[key] = None
        return found["value"]

    async def _names(self) -> "list[str]":
        found: dict[str, list[str]] = await self._activity.services.requests.call("secrets.list")
        return found["names"]

    async def _has(self, key: str) -> bool:
        return key in await self._names()

    async def _meta(self, key: str) -> SecretMeta:
        found = await self._found(key)
        return SecretMeta(key=key, backend=found.get("backend") or "", scope=found.get("scope") or "")

    async def _expose(self, key: str, name: str) -> None:
        self._activity.set_variable(name, await self._get(key))

    async def _mount(self, sources: str | Sequence[str], divider: str, mode: int, name: str | None) -> Path:
        keys = [sources] if isinstance(sources, str) else list(sources)
        if not keys:
            raise ValueError("name at least one secret to write")
        name = "-".join(keys)[:100].replace(os.sep, "_") if name is None else name
        if name in {"", ".", ".."} or os.sep in name or "\0" in name:
            raise ValueError(f"{name!r} cannot be the name of a file")
        body = divider.join([await self._get(key) for key in keys])
        self._activity.services.link.send(AddMask(value=body))
        path = os.path.join(self._activity.secret_directory(), name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            file.write(body)
            os.fchmod(file.fileno(), mode & 0o777)
        await self._tell(keys, path)
        return Path(path)

    async def _tell(self, keys: "list[str]", path: str) -> None:
        """For the host's audit: names and path, never a value. A host that keeps none may say so."""
        try:
            await self._activity.services.requests.call("secrets.mounted", {"keys": keys, "path": path})
        except (CapabilityMissingError, NotAvailableLocallyError):
            pass

    async def _expose_file(
        self, env_var: str, sources: str | Sequence[str], divider: str, mode: int, name: str | None
    ) -> Path:
        path = await self._mount(sources, divider, mode, name)
        self._activity.set_variable(env_var, str(path))
        return path
