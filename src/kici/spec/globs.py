"""Globs as regexes (AU-76). The text is RE2's; matching is `kici.engine.patterns`' business. Pure."""

GLOB_CHARACTERS = frozenset("*?[]{}")

_SPECIAL = frozenset(r"\.+*?()|[]{}^$")


def is_glob(text: str) -> bool:
    """Whether an author's text is a pattern rather than a name."""
    return not GLOB_CHARACTERS.isdisjoint(text)


def glob_to_regex(glob: str) -> str:
    """An anchored RE2 regex for the whole value. Brackets and braces without a partner are literal."""
    return rf"(?s)\A{_translate(glob)}\z"


def _escape(character: str) -> str:
    return "\\" + character if character in _SPECIAL else character


def _translate(glob: str) -> str:
    out: list[str] = []
    at, size = 0, len(glob)
    while at < size:
        character = glob[at]
        if character == "*":
            stop = at
            while stop < size and glob[stop] == "*":
                stop += 1
            if stop - at == 1:
                out.append("[^/]*")
            elif (at == 0 or glob[at - 1] == "/") and stop < size and glob[stop] == "/":
                out.append("(?:.*/)?")  # "a/**/b" also means "a/b"
                stop += 1
            elif at > 0 and glob[at - 1] == "/" and stop == size:
                out.append(".+")  # "a/**": anything below, not "a/" itself
            else:
                out.append(".*")
            at = stop
            continue
        if character == "?":
            out.append("[^/]")
        elif character == "[" and (stop := _class_end(glob, at)) is not None:
            out.append(_class(glob[at + 1 : stop]))
            at = stop
        elif character == "{" and (stop := _brace_end(glob, at)) is not None:
            options = _alternatives(glob[at + 1 : stop])
            out.append(f"(?:{'|'.join(_translate(option) for option in options)})")
            at = stop
        elif character == "\\" and at + 1 < size:
            at += 1
            out.append(_escape(glob[at]))
        else:
            out.append(_escape(character))
        at += 1
    return "".join(out)


def _class_end(glob: str, start: int) -> int | None:
    """Index of the `]` that closes the class opened at `start`; a `]` right after the opening is a member."""
    at = start + 1
    if at < len(glob) and glob[at] in "!^":
        at += 1
    end = glob.find("]", at + 1)
    return end if end > 0 else None


def _class(members: str) -> str:
    negated = members[0] in "!^"
    body = members[1:] if negated else members
    escaped = "".join("\\" + c if c in r"\[]^&~|" else c for c in body)
    # A class stays within its segment, whatever it lists.
    return f"[^/{escaped}]" if negated else f"[{escaped}]"


def _brace_end(glob: str, start: int) -> int | None:
    depth = 0
    at = start
    while at < len(glob):
        if glob[at] == "\\":
            at += 1
        elif glob[at] == "{":
            depth += 1
        elif glob[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None


def _alternatives(body: str) -> list[str]:
    """Split at commas that stand outside nested braces."""
    parts: list[str] = []
    depth = start = at = 0
    while at < len(body):
        if body[at] == "\\":
            at += 1
        elif body[at] == "{":
            depth += 1
        elif body[at] == "}":
            depth -= 1
        elif body[at] == "," and depth == 0:
            parts.append(body[start:at])
            start = at + 1
        at += 1
    parts.append(body[start:])
    return parts
