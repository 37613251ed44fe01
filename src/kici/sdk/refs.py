"""How steps and hooks of generated jobs travel (AU-44): as the module and the name that hold them, and JSON
parameters. `step_of(reference(step))` is that step again, in any process that has `.kici` on its path."""

import importlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

from kici.sdk.definitions import Hook, Step
from kici.sdk.errors import KiciError
from kici.sdk.options import DEFAULT_HOOK_TIMEOUT_MS, make_hook
from kici.sdk.source import SourceLocation, of_function
from kici.sdk.steps import make_step
from kici.spec import lock


class UnknownReference(KiciError):
    """No module-level step or function has this name (any more)."""

    code: ClassVar[str] = "unknown_reference"


def reference(step: Step[Any]) -> lock.StepRef | str:
    """How to find the step again, or why that cannot be: text for E603."""
    for path, value in _leaves(step.params, ""):
        if not _is_json(value):
            return f"its parameter {path} is not JSON"
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            return f"its parameter {path} has more than 64 bits"
    home = _home_of_step(step)
    if home is None:
        return _why_homeless(step.fn)
    module, name = home
    return lock.StepRef(module=module, name=name, params=dict(step.params))


def hook_reference(hook: Hook) -> lock.StepRef | str:
    """The same for a hook."""
    for module, names in _modules_of(hook.fn):
        if _look_up(names, _qualified_name(hook.fn)) is hook.fn:
            return lock.StepRef(module=module, name=_qualified_name(hook.fn), timeout=hook.timeout_ms)
        for name, value in names.items():
            if isinstance(value, Hook) and value.fn is hook.fn:
                return lock.StepRef(module=module, name=name, timeout=hook.timeout_ms)
    return _why_homeless(hook.fn)


def step_of(ref: lock.StepRef, *, name: str = "") -> Step[Any]:
    """The step with its parameters bound, called `name` if that is given. Raises UnknownReference."""
    found = _found(ref)
    if callable(found) and not isinstance(found, Step):
        found = make_step(found, None, {}, of_function(found) or SourceLocation(file=ref.module, line=1))
    if not isinstance(found, Step):
        raise UnknownReference(f"{ref.module}.{ref.name} is a {type(found).__name__}, not a step")
    bound = cast("Step[Any]", found).bind(**ref.params)
    from msgspec import structs

    return structs.replace(bound, name=name) if name else bound


def hook_of(ref: lock.StepRef) -> Hook:
    """The hook with the time limit it had. Raises UnknownReference."""
    found = _found(ref)
    fn: object = found.fn if isinstance(found, Hook) else found
    made = None
    if callable(fn):
        where = of_function(fn) or SourceLocation(file=ref.module, line=1)
        made = make_hook(fn, ref.timeout or DEFAULT_HOOK_TIMEOUT_MS, where)
    if made is None:
        raise UnknownReference(f"{ref.module}.{ref.name} is a {type(found).__name__}, not a function")
    return made


def _found(ref: lock.StepRef) -> object:
    try:
        names = vars(importlib.import_module(ref.module))
    except ImportError as error:
        raise UnknownReference(f"module {ref.module} cannot be imported: {error}") from error
    found = _look_up(names, ref.name)
    if found is None:
        raise UnknownReference(f"module {ref.module} has no {ref.name}")
    return found


def _home_of_step(step: Step[Any]) -> tuple[str, str] | None:
    """Where a module holds this step; of several the one with the fewest parameters of its own."""
    found: list[tuple[int, str, str]] = []
    for module, names in _modules_of(step.fn):
        for name, value in names.items():
            if (
                isinstance(value, Step)
                and value.fn is step.fn
                and value.settings is step.settings
                and value.params.keys() <= step.params.keys()
            ):
                found.append((len(value.params), module, name))
        if not found and _look_up(names, _qualified_name(step.fn)) is step.fn and _has_no_options(step):
            found.append((0, module, _qualified_name(step.fn)))
        if found:
            _, home, name = min(found, key=lambda entry: entry[0])
            return home, name
    return None


def _has_no_options(step: Step[Any]) -> bool:
    """A bare function among the steps: nothing is lost when it is wrapped again."""
    plain = make_step(step.fn, None, {}, step.source)
    return all(
        getattr(plain.settings, name) == getattr(step.settings, name)
        for name in plain.settings.__struct_fields__
    )


def _modules_of(fn: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The function's own module first, then those that the author's code consists of."""
    own = getattr(fn, "__module__", "") or ""
    file = getattr(getattr(fn, "__code__", None), "co_filename", "")
    first = sys.modules.get(own)
    if first is not None:
        yield own, vars(first)
    folder = file.rpartition("/")[0]
    for name, module in list(sys.modules.items()):
        theirs = getattr(module, "__file__", None) or ""
        if name != own and folder and name != "__main__" and theirs.rpartition("/")[0] == folder:
            yield name, vars(module)
    for name, module in list(sys.modules.items()):
        if name.startswith("workflows.") and name != own:
            yield name, vars(module)


def _qualified_name(fn: object) -> str:
    return getattr(fn, "__qualname__", "")


def _look_up(names: Mapping[str, Any], qualified: str) -> Any:
    first, *rest = qualified.split(".")
    found: Any = names.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found


def _why_homeless(fn: object) -> str:
    qualified = _qualified_name(fn)
    if qualified.endswith("<lambda>"):
        return "it is a lambda"
    if "<locals>" in qualified:
        return "it is a function made inside another one, a closure"
    return f"no module holds {qualified or type(fn).__name__!r} under a name"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    match value:
        case Mapping():
            for key, entry in cast("Mapping[Any, Any]", value).items():
                if not isinstance(key, str):
                    yield f"{path}[{key!r}]", key
                    continue
                yield from _leaves(entry, f"{path}.{key}" if path else key)
        case list() | tuple():
            for index, entry in enumerate(cast("Sequence[Any]", value)):
                yield from _leaves(entry, f"{path}[{index}]")
        case _:
            yield path, value


def _is_json(value: object) -> bool:
    return (
        value is None
        or type(value) in {str, int, bool}
        or (isinstance(value, float) and math.isfinite(value))
    )
