"""What the compiler and its child process tell each other. JSON, one document per line.

The compiler writes one `Request` to the child's stdin. The child answers on its stdout: a `Loading` before
each file, at last one `Reply`. Locations carry paths relative to the repository root.
"""

from typing import Any

import msgspec
from msgspec import Struct

from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.spec.events import Event
from kici.spec.lock import LockWorkflow
from kici.spec.triggers import Trigger


class AccessorUse(Struct, frozen=True, kw_only=True):
    """A literal `ctx.job_outputs(name)` and the like, found by reading; what `name` is, only the child knows."""

    file: str  # absolute
    function_line: int  # of the function's first decorator, else of `def`
    accessor: str
    name: str
    line: int
    column: int


class Request(Struct, frozen=True, kw_only=True):
    root: str
    kici_dir: str
    files: list[str]  # absolute, in order of import
    uses: list[AccessorUse] = []
    fixture_files: list[str] = []  # absolute; imported after the workflows


class Loading(Struct, frozen=True, kw_only=True, tag_field="t", tag="loading"):
    file: str


class ShapedWorkflow(Struct, frozen=True, kw_only=True):
    """A workflow as it will stand in the lock file, without hashes. `trigger_sources`: one per trigger."""

    lock: LockWorkflow
    source: SourceLocation
    trigger_sources: list[SourceLocation]


class ShapedFixture(Struct, frozen=True, kw_only=True):
    """A fixture of `.kici/tests` (AU-121), its function called: either `trigger`, or `event` as it will be
    sent. `source.file` is relative to the repository root."""

    id: str
    source: SourceLocation
    trigger: Trigger | None = None
    event: Event | None = None
    branch: str | None = None
    sha: str | None = None
    repo: str | None = None
    pr: int | None = None
    secrets: dict[str, str] = {}
    workflow: str | None = None
    inputs: dict[str, Any] = {}
    payload: dict[str, Any] | None = None


class Reply(Struct, frozen=True, kw_only=True, tag_field="t", tag="reply"):
    problems: list[Problem]
    workflows: list[ShapedWorkflow]
    fixtures: list[ShapedFixture] = []


FromChild = Loading | Reply

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_from_child = msgspec.json.Decoder(FromChild).decode
