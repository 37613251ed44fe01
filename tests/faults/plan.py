"""What will be broken, when, and what is sent meanwhile: a pure function of a seed.

A fault is `kill -9` just before or just after a given message passes, or at a random moment; SIGSTOP for a
while; a cut connection; delayed messages. Timing inside processes stays the machine's own.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

# Every kind that passes between agent and orchestrator; `blobs.…` are bytes over HTTP: before they set out and
# after they arrived (get) or left (put), `half`: in the middle of what is put. Not here: refusals (`error`, `auth.failure`), which
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
    "agent.request",
    "agent.response",
    "blobs.get",
    "blobs.put",
    "blobs.half",
)
# RPC methods that change something.
NAMED_METHODS = ("remote.upload", "remote.trigger", "registration.run", "run.rerun")
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
    # Requests by their method, and what is answered to them.
    *(name + part for name in NAMED_METHODS for part in ("", " answered")),
)
# Kinds that a transaction of ours follows or goes before: the database dies there, too.
STORED = {
    "agent": (
        "agent.register",
        "job.dispatch",
        "job.ack",
        "job.status",
        "step.status",
        "agent.request",
        "agent.response",
    ),
    "platform": (
        "RELAY",
        "webhook.ack",
        "projection.batch",
        "projection.ack",
        "remote.trigger",
        "registration.run",
        "run.rerun",
    ),
}
# Several of these pass in every run: strike at any of them.
FREQUENT = frozenset({"job.status", "step.status", "run.event", "LOG_BLOCK", "ack", "projection.batch"})

# runner: the process that executes author code. zygote: the one it was forked from. supervisor: `kici up`.
Target = Literal["orchestrator", "platform", "agent", "postgres", "runner", "zygote", "supervisor", ""]
Link = Literal["agent", "platform"]
# Local push; signed webhook to the orchestrator, or the Platform; `kici run remote`; by hand.
Route = Literal["push", "direct", "relay", "remote", "rerun", "registration"]

Point = tuple[str, str, str, str]  # link, kind, when, who dies

_ENDS: dict[Link, tuple[Target, ...]] = {
    "agent": ("orchestrator", "agent"),
    "platform": ("orchestrator", "platform"),
}
_TARGETS: tuple[Target, ...] = ("orchestrator", "platform", "agent", "postgres")
_WEIGHTS = (5, 4, 5, 4, 2, 1, 1)


@dataclass(frozen=True, slots=True)
class Sending:
    """One start. `scenario`: of a webhook its type, of a remote run its check mode."""

    route: Route
    scenario: str = "faults"

    def __str__(self) -> str:
        return self.route if self.scenario == "faults" else f"{self.route}:{self.scenario}"


PUSH = Sending("push")
# Kinds that not every run brings: what does.
SENT_BY: dict[str, Sending] = {
    "RELAY": Sending("relay"),
    "webhook.ack": Sending("relay"),
    "agent.request": Sending("direct", "dressed"),
    "agent.response": Sending("direct", "dressed"),
    "blobs.get": Sending("direct", "dressed"),
    "blobs.put": Sending("direct", "dressed"),
    "blobs.half": Sending("direct", "dressed"),
    "remote.upload": Sending("remote", "apply"),
    "remote.upload answered": Sending("remote", "check"),
    "remote.trigger": Sending("remote", "check"),
    "remote.trigger answered": Sending("remote", "apply"),
    "registration.run": Sending("registration"),
    "registration.run answered": Sending("registration"),
    "run.rerun": Sending("rerun"),
    "run.rerun answered": Sending("rerun"),
}
# What comes along with any fault, and how often.
_USUAL: dict[Sending, int] = {
    PUSH: 4,
    Sending("direct"): 1,
    Sending("relay"): 2,
    Sending("direct", "shapes"): 2,
    Sending("relay", "shapes"): 2,
    Sending("direct", "dressed"): 2,
    Sending("relay", "dressed"): 2,
    Sending("direct", "groups"): 2,
    Sending("relay", "groups"): 2,
    Sending("remote", "apply"): 1,
    Sending("remote", "check"): 1,
    Sending("rerun"): 1,
    Sending("registration"): 1,
}


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
    sends: tuple[Sending, ...] = (PUSH,)
    then: tuple[Sending, ...] = ()
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
        routes = ",".join(map(str, self.sends))
        routes += f" then {','.join(map(str, self.then))}" if self.then else ""
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
                if (kind, when) != ("blobs.half", "after")
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
    if pointed and roll < 0.84:
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
    sends = tuple(draw.choices(tuple(_USUAL), tuple(_USUAL.values()), k=2 if draw.random() < 0.15 else 1))
    if fault.kind in SENT_BY:
        sends = (SENT_BY[fault.kind],)
    elif sends[0].scenario == "groups":
        sends = (sends[0], *sends)  # somebody to wait for
    then: tuple[Sending, ...] = ()
    if fault.target in {"orchestrator", "platform", "postgres", "supervisor"} and draw.random() < 0.35:
        then = (Sending("relay"),) * draw.randint(1, 3)
    cancel = fault.kind == "job.cancel" or (draw.random() < 0.08 and fault.target != "supervisor")
    return replace(
        fault, sends=sends, then=then, cancel_after=round(draw.uniform(0.0, 0.8), 2) if cancel else None
    )
