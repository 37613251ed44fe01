"""Logs are events with fields: JSON lines on stdout, trace fields from the context (OP-24, seed 002).

`bind(request_id=…, run_id=…)` sets fields for everything that runs in this context; names are given in
snake_case and written in camelCase, as every wire of ours.
"""

import logging
import sys
import time
import traceback
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Literal, cast

import msgspec

# structlog loads rich wherever that is installed, for a console that we never show: 4 MB and 0.1 s in every
# server. To it, unless somebody uses rich already, rich is not there.
_without_rich = "rich" not in sys.modules
if _without_rich:
    sys.modules["rich"] = cast("Any", None)
try:
    import structlog
    from structlog.contextvars import bound_contextvars, merge_contextvars
    from structlog.typing import EventDict, FilteringBoundLogger
finally:
    if _without_rich:
        del sys.modules["rich"]

LogFormat = Literal["auto", "plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_encode = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode
_camel_names: dict[str, str] = {}


def _camel(name: str) -> str:
    known = _camel_names.get(name)
    if known is None:
        head, *rest = name.split("_")
        known = head + "".join(part[:1].upper() + part[1:] for part in rest)
        if len(_camel_names) < 4096:
            _camel_names[name] = known
    return known


class _Shape:
    """Order and names of a line: timestamp, level, message, service, instance, then the fields."""

    def __init__(self, service: str, instance: str) -> None:
        self.service = service
        self.instance = instance

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        shaped: EventDict = {
            "timestamp": f"{moment}.{int(now * 1000) % 1000:03d}Z",
            "level": event.pop("level", "info"),
            "message": event.pop("event", ""),
            "service": self.service,
            "instance": self.instance,
        }
        failure = event.pop("exc_info", None)
        if failure:
            error = failure if isinstance(failure, BaseException) else sys.exc_info()[1]
            if error is not None:
                shaped["error"] = f"{type(error).__name__}: {error}"
                shaped["stack"] = "".join(traceback.format_exception(error))
        for name, value in event.items():
            if value is not None:
                shaped[_camel(name)] = value
        request_id = shaped.get("requestId")
        if request_id is not None and "traceId" not in shaped:
            shaped["traceId"], shaped["spanId"] = trace_of(
                str(request_id), self.service, str(shaped.get("runId", "")), str(shaped.get("jobId", ""))
            )
        return shaped


def trace_of(request_id: str, service: str, run_id: str, job_id: str) -> tuple[str, str]:
    """W3C trace and span id of an operation, without carrying either over any wire (seed 002).

    The trace is the request: its UUID is 128 bits, as a trace id is. The span is what one service does for
    one request, run and job, so its lines share it in every process that writes them.
    """
    operation = f"{service}\0{request_id}\0{run_id}\0{job_id}".encode()
    return request_id.replace("-", ""), blake2b(operation, digest_size=8).hexdigest()


def _render_json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return _encode(dict(event)).decode()


def _render_plain(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    fields = dict(event)
    head = f"{fields.pop('timestamp')} {fields.pop('level'):7} {fields.pop('message')}"
    fields.pop("service", None)
    fields.pop("instance", None)
    stack = fields.pop("stack", "")
    tail = " ".join(f"{name}={value}" for name, value in fields.items())
    return f"{head} {tail}" + (f"\n{stack}" if stack else "")


def configure(service: str, instance: str, *, level: LogLevel = "info", style: LogFormat = "auto") -> None:
    """Once, at process start."""
    plain = style == "plain" or (style == "auto" and sys.stdout.isatty())
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            _Shape(service, instance),
            _render_plain if plain else _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard module; their warnings belong on the same stream.
    handler = _StandardHandler()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class _StandardHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(
            max(record.levelno, 10),
            record.getMessage(),
            logger=record.name,
            exc_info=record.exc_info[1] if record.exc_info else None,
        )


def get_logger(name: str) -> FilteringBoundLogger:
    return structlog.get_logger(module=name.removeprefix("kici."))


@contextmanager
def bind(**fields: str | int | None) -> Generator[None]:
    """Trace fields for every line written inside: request_id, run_id, job_id, routing_key, …"""
    with bound_contextvars(**{name: value for name, value in fields.items() if value is not None}):
        yield
