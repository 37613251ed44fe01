"""What a pure function may read of its parameter: the fields that whoever evaluates it knows (AU-41).

Read off the classes that authors see, so that a name is known here exactly when Python knows it too.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from kici.sdk.context import ConcurrencyContext, RuleContext
from kici.sdk.events import Event
from kici.sdk.payloads import Payload
from kici.sdk.problems import nearest
from kici.sdk.results import Fanout
from kici.spec import events as wire


class Fields(Struct, frozen=True, kw_only=True):
    """An object of ours. `known` are its fields, with the fields of what they hold where that is known too;
    `members` is all that Python finds, methods included. The keys of a mapping are none of its attributes."""

    what: str
    known: Mapping[str, "Fields | None"]
    members: frozenset[str]
    is_mapping: bool = False

    def help(self, name: str) -> str:
        """What to write instead of the unknown `name`."""
        if self.is_mapping:
            return f"its keys are no attributes: write [{name!r}] or .get({name!r})"
        guess = nearest(name, self.known)
        return f"did you mean {guess!r}?" if guess else f"there are: {', '.join(sorted(self.known))}"


# Attributes of a body are its keys, but for these, which Python finds first.
BODY_MEMBERS = frozenset(name for name in dir(Payload) if not name.startswith("_"))


def _object(what: str, cls: type, known: Mapping[str, Fields | None]) -> Fields:
    return Fields(what=what, known=known, members=_public(dir(cls)))


def _mapping(what: str) -> Fields:
    return Fields(what=what, known={}, members=_public(dir(Mapping)), is_mapping=True)


def _public(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if not name.startswith("_"))


EVENT = _object("the event", Event, dict.fromkeys(wire.Event.__struct_fields__))
_INPUTS = _mapping("dispatch_inputs")
RULE = _object(
    "the context of a rule",
    RuleContext,
    {
        "event": EVENT,
        "changed_files": None,
        "env": _mapping("env"),
        "dispatch_inputs": _INPUTS,
        "fanout": _object("fanout", Fanout, dict.fromkeys(("index", "total", "first", "last"))),
    },
)
CONCURRENCY = _object(
    "the context of a concurrency group",
    ConcurrencyContext,
    {
        "event": EVENT,
        "workflow": None,
        "ref": None,
        "sha": None,
        "repository": None,
        "dispatch_inputs": _INPUTS,
    },
)
