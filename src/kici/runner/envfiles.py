"""`$KICI_ENV` and `$KICI_PATH`: how any program of a step hands variables to the steps after it (AG-49)."""

from collections.abc import Iterator, Mapping

_LONGEST = 1 << 20


def read_env_file(path: str) -> dict[str, str]:
    """Variables in the file; the last of one name wins. A missing file holds none.

    `KEY=value` is split at the first `=`. `KEY<<WORD` takes the lines up to a line that is WORD. Lines
    that are neither are passed over.
    """
    found: dict[str, str] = {}
    lines = iter(_lines(path))
    for line in lines:
        key, equals, value = line.partition("=")
        name, heredoc, word = key.partition("<<")
        if heredoc and _is_name(name) and _is_name(word):
            found[name] = "\n".join(_until(lines, word))
        elif equals and _is_name(key):
            found[key] = value
    return found


def read_path_file(path: str) -> list[str]:
    """Directories, the one that goes first on PATH first."""
    return [line for line in _lines(path) if line.strip()]


def with_path(env: Mapping[str, str], directories: list[str]) -> str:
    """PATH with `directories` in front, in their order."""
    return ":".join([*directories, *filter(None, [env.get("PATH", "")])])


def _lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST).decode("utf-8", "surrogateescape")
    except OSError:
        return []
    return [line.removesuffix("\r") for line in text.split("\n")]


def _until(lines: Iterator[str], word: str) -> list[str]:
    body: list[str] = []
    for line in lines:
        if line == word:
            break
        body.append(line)
    return body


def _is_name(text: str) -> bool:
    return bool(text) and "\0" not in text and not any(character.isspace() for character in text)
