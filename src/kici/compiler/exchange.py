"""What the compiler and its child process tell each other. JSON, one document per line.

The compiler writes one `Request` to the child's stdin. The child answers on its stdout: a `Loading` before
each file, at last one `Reply`. Locations carry paths relative to the repository root.
"""

import msgspec
from msgspec import Struct

from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.spec.lock import LockWorkflow


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


class Reply(Struct, frozen=True, kw_only=True, tag_field="t", tag="reply"):
    problems: list[Problem]
    workflows: list[ShapedWorkflow]


FromChild = Loading | Reply

encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_from_child = msgspec.json.Decoder(FromChild).decode
