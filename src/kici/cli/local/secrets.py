"""Secrets of the author's machine (AU-114). Read from the real `.kici`, never copied, always masked.

Low to high: `.kici/.secrets` (INI; a `[section]` is a context), `.kici/.env.local` (lines `KEY=value`),
`.kici/secrets.toml` (a table is a context), `--context`, `--env`. A context is what an environment is on the
server: a job sees the contexts named after its own environments, and what stands outside of sections. What
`--context` adds never replaces a value of the job's own environments, so that a staging job cannot get a
production value.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from msgspec import Struct

from kici.cli.printable import printable, utf8_only
from kici.spec.errors import InvalidInput

FILES = (".secrets", ".env.local", "secrets.toml")  # in .kici, low to high
_SECTION = re.compile(r"\[([^\]]+)\]")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][\w.-]*)\s*=\s*(.*)")
_DEFAULT = ""


class InvalidSecrets(InvalidInput):
    """A file of secrets cannot be read; no value is shown."""


class UnknownContext(InvalidInput):
    """`--context` names something that no file has."""


class Secret(Struct, frozen=True, kw_only=True):
    """`backend` is where it stands; `scope` the context, `default` outside of one."""

    value: str
    backend: str
    scope: str


Contexts = dict[str, dict[str, str]]


class LocalSecrets:
    """All that the files hold. `of` is what one job may see."""

    def __init__(
        self,
        layers: Sequence[tuple[str, Contexts]],
        *,
        contexts: Sequence[str] = (),
        given: Mapping[str, str] | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """`layers` low to high. `renamed`: environments of jobs → contexts (a fixture's `secrets`)."""
        self._layers = layers
        self._contexts = contexts
        self._given = dict(given or {})
        self._renamed = dict(renamed or {})
        known = {name for _, found in layers for name in found} - {_DEFAULT}
        for name in contexts:
            if name not in known:
                there = (
                    f"contexts: {', '.join(sorted(known))}" if known else "no file of .kici has contexts"
                )
                raise UnknownContext(f"--context {name}: {there}")

    def of(self, environments: Sequence[str]) -> dict[str, Secret]:
        """By key, for a job of these environments."""
        own = [self._renamed.get(name, name) for name in environments]
        found: dict[str, Secret] = {}
        owned: set[str] = set()
        for backend, contexts in self._layers:
            for scope in (_DEFAULT, *own):
                for key, value in contexts.get(scope, {}).items():
                    found[key] = Secret(value=value, backend=backend, scope=scope or "default")
                    if scope:
                        owned.add(key)
        for scope in self._contexts:
            for backend, contexts in self._layers:
                for key, value in contexts.get(scope, {}).items():
                    if key not in owned:
                        found[key] = Secret(value=value, backend=backend, scope=scope)
        for key, value in self._given.items():
            found[key] = Secret(value=value, backend="--env", scope="default")
        return found

    def values(self) -> list[str]:
        """Every value there is, of whatever context: all are masked everywhere."""
        stored = [
            value for _, contexts in self._layers for table in contexts.values() for value in table.values()
        ]
        return [value for value in (*stored, *self._given.values()) if value]


def read_secrets(
    kici_dir: Path,
    *,
    contexts: Sequence[str] = (),
    given: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> LocalSecrets:
    """`given` are texts `KEY=value`. Raises InvalidInput."""
    ini, dotenv, toml = (_read(kici_dir / name) for name in FILES)
    layers: list[tuple[str, Contexts]] = []
    if ini is not None:
        layers.append((f".kici/{FILES[0]}", _lines(ini, FILES[0], sections=True)))
    if dotenv is not None:
        layers.append((f".kici/{FILES[1]}", _lines(dotenv, FILES[1], sections=False)))
    if toml is not None:
        layers.append((f".kici/{FILES[2]}", _tables(toml)))
    return LocalSecrets(layers, contexts=contexts, given=dict(map(_pair, given)), renamed=renamed)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInput(f"--env {printable(key)}: write KEY=value")
    return utf8_only("--env", key), utf8_only(f"--env {printable(key)}", value)


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSecrets(f".kici/{path.name} cannot be read: {type(error).__name__}") from None


def _lines(text: str, name: str, *, sections: bool) -> Contexts:
    contexts: Contexts = {}
    scope = _DEFAULT
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if sections and (section := _SECTION.fullmatch(line)):
            scope = section[1].strip()
            contexts.setdefault(scope, {})
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise InvalidSecrets(f".kici/{name}:{number}: write KEY=value")
        contexts.setdefault(scope, {})[match[1]] = _unquoted(match[2])
    return contexts


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        inner = value[1:-1]
        return inner.replace("\\n", "\n").replace('\\"', '"') if value[0] == '"' else inner
    return value


def _tables(text: str) -> Contexts:
    import tomllib  # few have the file

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise InvalidSecrets(f".kici/{FILES[2]} is not valid TOML") from None
    contexts: Contexts = {}
    for name, value in document.items():
        if isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            contexts[name] = {key: _text(f"{name}.{key}", inner) for key, inner in table.items()}
        else:
            contexts.setdefault(_DEFAULT, {})[name] = _text(name, value)
    return contexts


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidSecrets(f".kici/{FILES[2]}: {name} is no text")


def missing(key: str, known: Collection[str]) -> str:
    """What SecretNotFoundError says."""
    names = ", ".join(sorted(known)) or "none"
    return f"there is no secret {key!r} here; names: {names}"
