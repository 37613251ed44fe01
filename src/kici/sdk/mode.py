"""Whether the step that runs may change anything (AU-48). The runner sets it, per step."""

from contextvars import ContextVar

from kici.sdk.context import CheckMode

current: ContextVar[CheckMode] = ContextVar("kici.check_mode", default="apply")
