"""What will be broken, when, and what is sent meanwhile: a pure function of a seed.

A fault is `kill -9` just before or just after a given message passes, or at a random moment; SIGSTOP for a
while; a cut connection; delayed messages. Timing inside processes stays the machine's own.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

# Every kind that passes between agent and orchestrator. Not here: refusals (`error`, `auth.failure`), which
# healthy ends never send; `heartbeat`, twice a minute and empty; `job.reject`, which needs a race.
AGENT_LINK = (
    "auth.request",
    "auth.success",
    "agent.register",
    "register.ack",
    "config.ack",
    "job.dispatch",
    "job.ack",
    "job.status",
    "job.context",
    "job.heartbeat",
    "job.cancel",
    "step.status",
    "run.event",
    "agent.metrics",
    "LOG_BLOCK",
    "ack",
)
PLATFORM_LINK = (
    "auth.request",
    "auth.success",
    "source.register",
    "source.register.ack",
    "RELAY",
    "webhook.ack",
    "projection.batch",
    "projection.ack",
    "rpc.request",
    "rpc.response",
    "RPC_BYTES",
    "log.watch",
    "WATCHED_BLOCK",
    "log.watch.ended",
    "log.unwatch",
)
# Kinds that a transaction of ours follows or goes before: the database dies there, too.
STORED = {
    "agent": ("agent.register", "job.dispatch", "job.ack", "job.status", "step.status"),
    "platform": ("RELAY", "webhook.ack", "projection.batch", "projection.ack"),
}
# Several of these pass in every run: strike at any of them.
FREQUENT = frozenset({"job.status", "step.status", "run.event", "LOG_BLOCK", "ack", "projection.batch"})
# runner: the process that executes author code. zygote: the one it was forked from. supervisor: `kici up`.
Target = Literal["orchestrator", "platform", "agent", "postgres", "runner", "zygote", "supervisor", ""]
Link = Literal["agent", "platform"]
Route = Literal[
    "push", "direct", "relay"
]  # local push, signed webhook to the orchestrator, or the Platform

Point = tuple[str, str, str, str]  # link, kind, when, who dies

_ENDS: dict[Link, tuple[Target, ...]] = {
    "agent": ("orchestrator", "agent"),
    "platform": ("orchestrator", "platform"),
}
_TARGETS: tuple[Target, ...] = ("orchestrator", "platform", "agent", "postgres")
_WEIGHTS = (5, 4, 5, 4, 2, 1, 1)


@dataclass(frozen=True, slots=True)
class Fault:
    """`sends`: deliveries while it is prepared; `then`: deliveries when it has struck. With `cancel_after`
    the first delivery's run is cancelled so many seconds after it appeared."""

    action: Literal["kill", "pause", "cut", "delay"]
    target: Target = ""
    link: Link = "agent"
    kind: str = ""  # message that triggers it; empty: at a random moment
    when: Literal["before", "after"] = "before"
    nth: int = 1
    seconds: float = 0.0
    sends: tuple[Route, ...] = ("push",)
    then: tuple[Route, ...] = ()
    also: Target = ""  # killed right afterwards
    cancel_after: float | None = None

    def __str__(self) -> str:
        point = f"{self.when} {self.kind}#{self.nth}" if self.kind else f"{self.seconds:.2f} s in"
        match self.action:
            case "kill":
                also = f" and {self.also}" if self.also else ""
                text = f"kill -9 {self.target}{also} {point}"
            case "pause":
                where = f" after {self.kind}#{self.nth}" if self.kind else ""
                text = f"SIGSTOP {self.target} for {self.seconds:.1f} s{where}"
            case "cut":
                text = f"cut the {self.link} link {point}"
            case "delay":
                text = f"delay the {self.link} link by {self.seconds * 1000:.0f} ms a message"
        routes = ",".join(self.sends) + (f" then {','.join(self.then)}" if self.then else "")
        cancelled = "" if self.cancel_after is None else f", cancelled {self.cancel_after:.2f} s in"
        return f"{text}  ({routes}{cancelled})"

    @property
    def kills(self) -> int:
        """Processes that it kills."""
        return (1 + bool(self.also)) if self.action == "kill" else 0

    @property
    def point(self) -> Point | None:
        """Of a kill at a message."""
        return (
            (self.link, self.kind, self.when, self.target) if self.action == "kill" and self.kind else None
        )


def points() -> list[Fault]:
    """A kill before and after every message kind, of each process that sends or receives it, and of the
    database where it matters."""
    found: list[Fault] = []
    links: tuple[tuple[Link, tuple[str, ...]], ...] = (("agent", AGENT_LINK), ("platform", PLATFORM_LINK))
    for link, kinds in links:
        for kind in kinds:
            targets: list[Target] = [*_ENDS[link]]
            if kind in STORED[link]:
                targets.append("postgres")
            found += [
                Fault("kill", target, link, kind, when)
                for when in ("before", "after")
                for target in targets
            ]
    return found


def plan(seed: int, count: int) -> list[Fault]:
    """`count` kills (or one more), with pauses, cuts and delays between them; every point once before others repeat."""
    draw = random.Random(seed)
    pointed = points()
    draw.shuffle(pointed)
    faults: list[Fault] = []
    kills = 0
    while kills < count:
        fault = _next(draw, pointed)
        kills += fault.kills
        faults.append(_meanwhile(draw, fault))
    return faults


def _next(draw: random.Random, pointed: list[Fault]) -> Fault:
    roll = draw.random()
    if roll < 0.10:
        return Fault("pause", draw.choice(_TARGETS), seconds=draw.uniform(0.3, 2.0))
    if roll < 0.12:
        # So long that its life signs go stale: it comes back in time with its job, or too late.
        return Fault(
            "pause", "agent", kind="step.status", nth=draw.randint(1, 3), seconds=draw.choice((9.0, 16.0))
        )
    if roll < 0.20:
        link: Link = draw.choice(("agent", "platform"))
        kind = draw.choice(AGENT_LINK if link == "agent" else PLATFORM_LINK)
        return Fault("cut", "", link, kind, draw.choice(("before", "after")))
    if roll < 0.24:
        return Fault("delay", "", draw.choice(("agent", "platform")), seconds=draw.uniform(0.005, 0.05))
    if pointed and roll < 0.76:
        fault = pointed.pop()
        return replace(fault, nth=draw.randint(1, 3)) if fault.kind in FREQUENT else fault
    targets: tuple[Target, ...] = (*_TARGETS, "runner", "zygote", "supervisor")
    target = draw.choices(targets, _WEIGHTS)[0]
    if target in {"runner", "zygote"}:
        return Fault("kill", target, kind="step.status", when="after", nth=draw.randint(1, 3))
    also: Target = ""
    if target != "supervisor" and draw.random() < 0.25:
        also = draw.choice([other for other in _TARGETS if other != target])
    return Fault("kill", target, seconds=draw.uniform(0.0, 1.2), also=also)


def _meanwhile(draw: random.Random, fault: Fault) -> Fault:
    routes: tuple[Route, ...] = ("push", "direct", "relay")
    sends = tuple(draw.choices(routes, (5, 2, 3), k=2 if draw.random() < 0.15 else 1))
    if fault.kind in {"RELAY", "webhook.ack"}:
        sends = ("relay",)
    then: tuple[Route, ...] = ()
    if fault.target in {"orchestrator", "platform", "postgres", "supervisor"} and draw.random() < 0.35:
        then = ("relay",) * draw.randint(1, 3)
    cancel = fault.kind == "job.cancel" or (draw.random() < 0.08 and fault.target != "supervisor")
    return replace(
        fault, sends=sends, then=then, cancel_after=round(draw.uniform(0.0, 0.8), 2) if cancel else None
    )
