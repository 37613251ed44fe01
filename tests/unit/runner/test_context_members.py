"""What the runner hands out has every member that the protocols of the SDK promise (authoring §3)."""

import inspect

import pytest

from kici.runner import cacheaccess, context, offers, secrets, steplog, upstream
from kici.sdk import context as promised
from kici.sdk import services


def members(protocol: type) -> dict[str, object]:
    """Names that authors may use, its bases' included."""
    found: dict[str, object] = {}
    for base in reversed(protocol.__mro__):
        if base.__module__.startswith("kici."):
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    return found


def parameters(function: object) -> list[tuple[str, object]]:
    assert callable(function)
    return [
        (parameter.name, parameter.kind)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY
    ]


@pytest.mark.parametrize(
    ("protocol", "ours"),
    [
        (promised.Context, context.StepContext),
        (promised.HookContext, context.HookStepContext),
        (promised.RuleContext, context.RuleStepContext),
        (promised.GenerateContext, context.ActivityContext),
        (promised.ConcurrencyContext, context.ConcurrencyFacts),
        (services.Log, steplog.StepLog),
        (services.Secrets, secrets.StepSecrets),
        (services.CacheAccess, cacheaccess.StepCaches),
        (services.HostOutputs, upstream.HostOutputs),
        (services.MatrixOutputs, upstream.FanOutOutputs),
        (services.JobOutputs, upstream.StepOutputs),
    ],
)
def test_every_promised_member_is_there(protocol: type, ours: type) -> None:
    """AU-6: with the same keyword parameters."""
    in_instances = {"log", "outcome"}  # set by __init__
    for name, value in members(protocol).items():
        if name in in_instances:
            continue
        assert hasattr(ours, name), f"{ours.__name__} lacks {name}"
        if inspect.isfunction(value):
            mine = getattr(ours, name)
            if not getattr(value, "__overload__", False) and "overload" not in repr(value):
                assert parameters(mine) == parameters(value), name


@pytest.mark.parametrize("part", ["inventory", "infrastructure", "oidc", "host"])
def test_parts_of_ctx_kici(part: str) -> None:
    own = {
        "inventory": "_Inventory",
        "infrastructure": "_Infrastructure",
        "oidc": "_Oidc",
        "host": "_HostControl",
    }
    protocol = {
        "inventory": services.Inventory,
        "infrastructure": services.Infrastructure,
        "oidc": services.Oidc,
        "host": services.HostControl,
    }[part]
    ours = vars(offers)[own[part]]
    assert part in members(services.Kici)
    for name, value in members(protocol).items():
        assert parameters(getattr(ours, name)) == parameters(value)
