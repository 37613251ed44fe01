"""What the runner hands to author functions is what their annotations promise (AU-6, section 3)."""

from kici import ConcurrencyContext, Context, GenerateContext, HookContext, RuleContext
from kici.runner.context import (
    ActivityContext,
    ConcurrencyFacts,
    HookStepContext,
    RuleStepContext,
    StepContext,
)


def step(ctx: StepContext) -> Context:
    return ctx


def hook(ctx: HookStepContext) -> HookContext:
    return ctx


def rule(ctx: RuleStepContext) -> RuleContext:
    return ctx


def generator(ctx: ActivityContext) -> GenerateContext:
    return ctx


def concurrency(ctx: ConcurrencyFacts) -> ConcurrencyContext:
    return ctx
