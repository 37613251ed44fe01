"""Secrets never leave the host in readable form: every known spelling of a value becomes `***` (AG-65).

`Masker` knows the values, `MaskedStream` applies them to one output, also across chunk borders: the end of
a chunk that may be the beginning of a secret is held back until the next one decides.
"""

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Any, cast
from urllib.parse import quote, quote_plus

MASK = b"***"
_SHORTEST_VALUE = 3
_SHORTEST_LINE = 4
_SHORTEST_BASE64 = 4
_MOST_VALUES = 10_000


def spellings(value: str) -> set[bytes]:
    """The forms a secret is printed in: raw, line by line, base64, URL, JSON and shell quoted."""
    if len(value.strip()) < _SHORTEST_VALUE:
        return set()
    texts = {value, value.strip()}
    lines = value.splitlines()
    if len(lines) > 1:
        texts.update(stripped for line in lines if len(stripped := line.strip()) >= _SHORTEST_LINE)
    forms: set[bytes] = set()
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        quoted = {
            quote(raw, safe=""),
            quote_plus(raw, safe=""),
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            _inside(shlex.quote(text)),
            text.replace("'", "'\\''"),
        }
        forms.add(raw)
        forms.update(form.encode("utf-8", "surrogatepass") for form in quoted)
        forms.update(_base64_forms(raw))
    return {form for form in forms if len(form) >= _SHORTEST_VALUE}


def _inside(quoted: str) -> str:
    return quoted[1:-1] if quoted.startswith("'") else quoted


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """The characters that the value alone decides, at each of the three alignments it may have in a text."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        first = -(-before * 8 // 6)
        end = (before + len(raw)) * 8 // 6
        form = encoded[first:end]
        if len(form) >= _SHORTEST_BASE64:
            yield form
            yield form.translate(bytes.maketrans(b"+/", b"-_"))


class Masker:
    """All secrets of one job. Values are only ever added."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._forms: set[bytes] = set()
        self._pattern: re.Pattern[bytes] | None = None
        self._by_first: dict[int, list[bytes]] = {}
        self.longest = 0
        for value in values:
            self.add(value)

    def add(self, value: str) -> None:
        """Masked in whatever is fed from now on. Values under three characters cannot be masked."""
        if value in self._values or len(self._values) >= _MOST_VALUES:
            return
        self._values.add(value)
        forms = spellings(value)
        if not forms <= self._forms:
            self._forms |= forms
            self.longest = max(map(len, self._forms))
            self._pattern = None

    def __bool__(self) -> bool:
        return bool(self._forms)

    @property
    def pattern(self) -> re.Pattern[bytes]:
        """Any form, the longest first."""
        if self._pattern is None:
            ordered = sorted(self._forms, key=lambda form: (-len(form), form))
            self._pattern = re.compile(b"|".join(map(re.escape, ordered)))
            self._by_first = {}
            for form in ordered:
                self._by_first.setdefault(form[0], []).append(form)
        return self._pattern

    def may_begin_at(self, data: bytes) -> list[int]:
        """Positions from which the rest of `data` is a proper beginning of some form, in order."""
        if self._pattern is None:
            _ = self.pattern
        found: list[int] = []
        for at in range(max(0, len(data) - self.longest + 1), len(data)):
            rest = len(data) - at
            for form in self._by_first.get(data[at], ()):
                if len(form) > rest and data.endswith(form[:rest]):
                    found.append(at)
                    break
        return found

    def mask_text(self, text: str) -> str:
        if not self:
            return text
        raw = text.encode("utf-8", "surrogatepass")
        return self.pattern.sub(MASK, raw).decode("utf-8", "surrogatepass")

    def mask_json(self, value: Any) -> Any:
        """The JSON value with every text in it masked, keys included."""
        if not self:
            return value
        match value:
            case str():
                return self.mask_text(value)
            case list():
                return [self.mask_json(item) for item in cast("list[Any]", value)]
            case dict():
                items = cast("dict[str, Any]", value).items()
                return {self.mask_text(key): self.mask_json(item) for key, item in items}
            case _:
                return value


class MaskedStream:
    """One output. Without secrets it passes bytes through untouched."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be shown by now."""
        if not self._masker:
            return data
        return self._mask(self._held + data, at_end=False)

    def finish(self) -> bytes:
        """What was held back, when nothing more comes."""
        return self._mask(self._held, at_end=True) if self._held else b""

    def _mask(self, data: bytes, *, at_end: bool) -> bytes:
        pattern = self._masker.pattern
        undecided = [] if at_end else self._masker.may_begin_at(data)
        shown: list[bytes] = []
        done = 0
        while True:
            match = pattern.search(data, done)
            hold = next((at for at in undecided if at >= done), len(data))
            if match is None or match.start() >= hold:
                break
            shown += [data[done : match.start()], MASK]
            done = match.end()
        shown.append(data[done:hold])
        self._held = data[hold:]
        return b"".join(shown)
