"""The parts of a fake `ctx`: log, secrets, caches, hosts. Everything stays in memory and is there to look at."""

from collections.abc import Generator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from msgspec import Struct

from kici.sdk.definitions import Cache
from kici.sdk.errors import OutputError, SecretNotFoundError
from kici.sdk.readers import given_cache
from kici.sdk.results import CacheHit, HostFacts, OidcToken, SecretMeta
from kici.sdk.settings import CacheKey
from kici.sdk.values import Duration, Patterns, as_patterns
from kici.testing.tracking import awaited


class LogLine(Struct, frozen=True, kw_only=True):
    level: str  # debug | info | warning | error | group
    text: str


class Emitted(Struct, frozen=True, kw_only=True):
    """An event the step emitted."""

    event: str
    payload: Mapping[str, Any]
    target_repos: tuple[str, ...] = ()


class Annotation(Struct, frozen=True, kw_only=True):
    level: str
    message: str
    file: str | None = None
    line: int | None = None


class FakeLog:
    """`lines` as logged, `masks` as added."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.masks: list[str] = []

    def debug(self, msg: str, /, *args: object) -> None:
        self._add("debug", msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._add("info", msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._add("warning", msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._add("error", msg, args)

    @contextmanager
    def group(self, title: str, /) -> Generator[None]:
        self._add("group", title, ())
        yield

    def add_mask(self, value: str, /) -> None:
        self.masks.append(value)

    def _add(self, level: str, msg: str, args: tuple[object, ...]) -> None:
        self.lines.append(LogLine(level=level, text=msg % args if args else msg))


class FakeSecrets:
    """`accessed` has the names that were read, in order; `env` is the step's environment."""

    def __init__(self, values: Mapping[str, str], env: MutableMapping[str, str], folder: "Folder") -> None:
        self.values = dict(values)
        self.accessed: list[str] = []
        self._env = env
        self._folder = folder

    @awaited("ctx.secrets.get")
    async def get(self, key: str, /) -> str:
        return self._value(key)

    @awaited("ctx.secrets.expose")
    async def expose(self, key: str, /, *, as_: str | None = None) -> None:
        self._env[as_ or key] = self._value(key)

    @awaited("ctx.secrets.has")
    async def has(self, key: str, /) -> bool:
        return key in self.values

    @awaited("ctx.secrets.list")
    async def list(self) -> list[str]:
        return sorted(self.values)

    @awaited("ctx.secrets.get_meta")
    async def get_meta(self, key: str, /) -> SecretMeta:
        if key not in self.values:
            raise SecretNotFoundError(key, sorted(self.values))
        return SecretMeta(key=key, backend="memory", scope="test")

    @awaited("ctx.secrets.mount_file")
    async def mount_file(
        self,
        sources: str | Sequence[str],
        /,
        *,
        divider: str = "",
        mode: int = 0o600,
        name: str | None = None,
    ) -> Path:
        keys = [sources] if isinstance(sources, str) else [*sources]
        body = divider.join([self._value(key) for key in keys])
        path = self._folder.path() / (name or f"secret-{len(self.accessed)}")
        path.write_text(body)
        path.chmod(mode)
        return path

    @awaited("ctx.secrets.expose_file")
    async def expose_file(
        self,
        env_var: str,
        sources: str | Sequence[str],
        /,
        *,
        divider: str = "",
        mode: int = 0o600,
        name: str | None = None,
    ) -> Path:
        path = await self.mount_file(sources, divider=divider, mode=mode, name=name)
        self._env[env_var] = str(path)
        return path

    def _value(self, key: str) -> str:
        if key not in self.values:
            raise SecretNotFoundError(key, sorted(self.values))
        self.accessed.append(key)
        return self.values[key]


class Folder:
    """A directory that is made when first asked for, and goes with the context."""

    def __init__(self, given: Path | None = None) -> None:
        self._path = given

    def path(self) -> Path:
        if self._path is None:
            import shutil
            import tempfile
            import weakref

            made = tempfile.mkdtemp(prefix="kici-test-")
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
            self._path = Path(made)
        return self._path


class FakeCache:
    """`entries` are the keys there are: put some in to be restored. A `cache_key` counts by its prefix."""

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.restored: list[Cache] = []
        self.saved: list[Cache] = []

    @awaited("ctx.cache.restore")
    async def restore(self, spec: Cache | Mapping[str, Any], /) -> CacheHit:
        spec = given_cache(spec)
        self.restored.append(spec)
        key = _key(spec.key)
        if key in self.entries:
            return CacheHit(hit=True, matched_key=key)
        for beginning in spec.restore_keys:
            for entry in reversed(self.entries):
                if entry.startswith(beginning):
                    return CacheHit(hit=True, matched_key=entry)
        return CacheHit(hit=False)

    @awaited("ctx.cache.save")
    async def save(self, spec: Cache | Mapping[str, Any], /) -> bool:
        spec = given_cache(spec)
        self.saved.append(spec)
        key = _key(spec.key)
        if key in self.entries:
            return False
        self.entries.append(key)
        return True


def _key(key: str | CacheKey) -> str:
    return key if isinstance(key, str) else "-".join([key.prefix, *key.parts])


class FakeInventory:
    def __init__(self, hosts: list[HostFacts]) -> None:
        self._hosts = hosts

    @awaited("ctx.kici.inventory.query")
    async def query(self, include: Patterns = (), exclude: Patterns = ()) -> list[HostFacts]:
        wanted, unwanted = as_patterns(include), as_patterns(exclude)
        return sorted(
            (
                host
                for host in self._hosts
                if all(_has(host, label) for label in wanted)
                and not any(_has(host, label) for label in unwanted)
            ),
            key=lambda host: host.agent_id,
        )

    @awaited("ctx.kici.inventory.get")
    async def get(self, id: str, /) -> HostFacts:
        for host in self._hosts:
            if host.agent_id == id:
                return host
        raise OutputError(f"there is no host {id!r}; give it: FakeContext(hosts=[HostFacts(...)])")


def _has(host: HostFacts, label: Any) -> bool:
    if not isinstance(label, str):
        return any(label.search(own) for own in host.labels)
    if label.startswith("!"):
        return not _has(host, label[1:])
    return any(fnmatchcase(own, label) for own in host.labels)


class FakeInfrastructure:
    def __init__(self, hosts: list[HostFacts]) -> None:
        self._hosts = hosts

    @awaited("ctx.kici.infrastructure.list")
    async def list(self) -> list[HostFacts]:
        return [*self._hosts]


class FakeOidc:
    @awaited("ctx.kici.oidc.token")
    async def token(self, *, audience: str) -> OidcToken:
        return OidcToken(token=f"token-for-{audience}", expires_in=600)


class FakeHostControl:
    """`reboots` has the deadline of every request."""

    def __init__(self) -> None:
        self.reboots: list[Duration | None] = []

    @awaited("ctx.kici.host.request_reboot")
    async def request_reboot(self, *, deadline: Duration | None = None) -> None:
        self.reboots.append(deadline)


class FakeKici:
    def __init__(self, hosts: list[HostFacts]) -> None:
        self.inventory = FakeInventory(hosts)
        self.infrastructure = FakeInfrastructure(hosts)
        self.oidc = FakeOidc()
        self.host = FakeHostControl()
