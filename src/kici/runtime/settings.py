"""Settings: one frozen Struct per process, filled from `KICI_*` once, in `app.py` (OR-1, PD-7, AG-91).

`KICI_X_FILE=/path` fills field `x` from a file, so that secrets need not stand in an environment.
An unknown `KICI_*` name stops the start and names its nearest relative; `KICI_DEV=true` only warns.
"""

import difflib
import sys
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import msgspec
from msgspec import Struct

from kici.spec.errors import KiciError

PREFIX = "KICI_"
# Read by programs around the process itself: author CLI, tests, supervisors.
FOREIGN = frozenset(
    {"KICI_DEV", "KICI_DEBUG", "KICI_TEST_NO_SKIP", "KICI_CONFIG_DIR", "KICI_TOKEN", "KICI_RUN_DIR"}
)

SettingsT = TypeVar("SettingsT", bound=Struct)


class BadSettings(KiciError):
    """Every problem at once, one per line."""

    code: ClassVar[str] = "bad_settings"

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def variable(field_name: str) -> str:
    """The environment variable of a field: `database_url` → `KICI_DATABASE_URL`."""
    return PREFIX + field_name.upper()


def load(kind: type[SettingsT], environ: Mapping[str, str]) -> SettingsT:
    """Fill `kind` from the environment. Raises BadSettings with all problems."""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    by_variable = {variable(name): name for name in fields}
    problems: list[str] = []
    values: dict[str, str] = {}
    for key, value in environ.items():
        if not key.startswith(PREFIX) or key in FOREIGN:
            continue
        name = by_variable.get(key)
        if name is None and key.endswith("_FILE"):
            name = by_variable.get(key.removesuffix("_FILE"))
            if name is not None:
                try:
                    with open(value, encoding="utf-8") as file:
                        values[name] = file.read().strip()
                except OSError as error:
                    problems.append(f"{key}: cannot read {value}: {error.strerror}")
                continue
        if name is not None:
            values[name] = value
            continue
        near = difflib.get_close_matches(key, by_variable, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        message = f"{key}: unknown setting{hint}"
        if environ.get("KICI_DEV", "").lower() == "true":
            print(f"warning: {message}", file=sys.stderr)
        else:
            problems.append(message)
    for name, field in fields.items():
        if field.required and name not in values:
            problems.append(f"{variable(name)}: required, not set")
    # Field by field, so that each problem names its variable.
    converted: dict[str, object] = {}
    for name, value in values.items():
        try:
            converted[name] = msgspec.convert(value, fields[name].type, strict=False)
        except msgspec.ValidationError as error:
            problems.append(f"{variable(name)}: {error} (got {value!r})")
    if problems:
        raise BadSettings(problems)
    return kind(**converted)
