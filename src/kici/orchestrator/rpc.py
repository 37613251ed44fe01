"""What the Platform may ask this orchestrator: one table, method → (params, handler) (design §8).

Routes, guards and the TypeScript client follow from the same names in `kici.protocol.dashboard_v1`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from kici.protocol.platform_v1 import Actor, RpcBytes, RpcRequest, RpcResponse
from kici.runtime.logging import get_logger
from kici.spec.durations import in_words
from kici.spec.errors import InvalidInput, KiciError, NotFound

log = get_logger(__name__)


class Caller(Struct, frozen=True, kw_only=True):
    """On whose behalf. Every handler answers only for rows of `org_id`."""

    org_id: str
    actor: Actor


class BytesAnswer(Struct, frozen=True, kw_only=True):
    """An answer that travels as an RPC_BYTES frame: `head` and the bytes after it."""

    head: RpcBytes
    data: bytes


class RawResult(Struct, frozen=True, kw_only=True):
    """What a handler returns whose answer is bytes."""

    meta: dict[str, Any]
    data: bytes


Handler = Callable[[Any, Caller], Awaitable[Any]]


class RpcMethod(Struct, frozen=True, kw_only=True):
    """`handler(params, caller)` returns a view Struct of dashboard_v1, or RawResult."""

    params: type[Struct]
    handler: Handler


class NoParams(Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class RunParams(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str


class CancelParams(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    force: bool = False


class BranchParams(Struct, frozen=True, kw_only=True, rename="camel"):
    branch: str


class RerunParams(Struct, frozen=True, kw_only=True, rename="camel"):
    """`mode` failed: what succeeded is carried over."""

    run_id: str
    mode: Literal["all", "failed"] = "all"


class LogReadParams(Struct, frozen=True, kw_only=True, rename="camel"):
    """`tail`: that many of the last lines, whatever `offset` and `limit` say. `attempt`: the current one
    unless given."""

    run_id: str
    job_id: str
    step_index: int
    offset: int = 0
    limit: int = 5000
    tail: int | None = None
    attempt: int | None = None


class LogSearchParams(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    job_id: str
    step_index: int
    query: str
    regex: bool = False
    limit: int = 100
    attempt: int | None = None


class LogRawParams(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    job_id: str
    step_index: int
    from_byte: int = 0
    max_bytes: int = 1 << 20
    attempt: int | None = None


class DeliveriesParams(Struct, frozen=True, kw_only=True, rename="camel"):
    """`before`: a cursor from an earlier `nextBefore`."""

    limit: int = 50
    before: str | None = None


class RegistrationRunParams(Struct, frozen=True, kw_only=True, rename="camel"):
    """`inputs` as somebody typed them; the orchestrator coerces and completes them."""

    registration_id: str
    inputs: dict[str, Any] = {}


class DispatchParams(Struct, frozen=True, kw_only=True, rename="camel"):
    """`type`: which of the repository's `dispatch` triggers it is for."""

    repository: str
    type: str
    inputs: dict[str, Any] = {}


class UnknownMethod(NotFound):
    code: ClassVar[str] = "unknown_method"


async def answer(
    methods: Mapping[str, RpcMethod], request: RpcRequest, *, org_id: str
) -> RpcResponse | BytesAnswer:
    """Never raises for what a request or a handler does; the asker's deadline bounds the handler."""
    try:
        method = methods.get(request.method)
        if method is None:
            raise UnknownMethod(f"this orchestrator does not know {request.method}")
        try:
            params = msgspec.convert(request.params, method.params)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{request.method}: {error}") from error
        async with asyncio.timeout(max(request.deadline_ms, 1) / 1000):
            result = await method.handler(params, Caller(org_id=org_id, actor=request.actor))
    except KiciError as error:
        return RpcResponse(id=request.id, error_code=error.code, error=str(error), status=error.status)
    except TimeoutError:
        return RpcResponse(
            id=request.id,
            error_code="deadline_exceeded",
            error=f"no answer within {in_words(request.deadline_ms)}",
            status=504,
        )
    except Exception as error:
        log.error("rpc.failed", method=request.method, request=request.id, exc_info=error)
        return RpcResponse(
            id=request.id,
            error_code="internal_error",
            error="Something went wrong in the orchestrator; its log has the rest",
            status=500,
        )
    if isinstance(result, RawResult):
        return BytesAnswer(head=RpcBytes(id=request.id, meta=result.meta), data=result.data)
    return RpcResponse(id=request.id, result=result)
