"""Bundles for models: docs/llm/llms.txt, and pages joined to texts that fit a context."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import docs_words as words

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


class Incomplete(Exception):
    """The code or a page has something that the documentation would leave out."""


def bundles(made: Mapping[str, str]) -> dict[str, str]:
    """docs/llm/* from the pages, where `made` are those that are not written yet."""
    from kici.cli.docs import MAX_BUNDLE_BYTES

    texts = {
        path.relative_to(DOCS).as_posix(): path.read_text("utf-8")
        for path in sorted(DOCS.rglob("*.md"))
        if "llm" not in path.relative_to(DOCS).parts
    }
    texts |= {name: text for name, text in made.items() if name.endswith(".md")}
    agents = ROOT / "src" / "kici" / "cli" / "templates" / "AGENTS.md"
    texts["AGENTS.md"] = agents.read_text("utf-8")
    chosen = {name: list(matching(patterns, texts)) for name, patterns in words.BUNDLES.items()}
    everywhere = {page for found in chosen.values() for page in found}
    forgotten = texts.keys() - everywhere - words.IN_NO_BUNDLE.keys()
    if forgotten:
        raise Incomplete(f"docs/llm: in no bundle: {sorted(forgotten)}")
    out: dict[str, str] = {}
    for name, pages in chosen.items():
        out[f"llm/{name}.md"] = bundle(words.BUNDLE_TITLES[name], pages, texts)
        size = len(out[f"llm/{name}.md"].encode())
        if size > MAX_BUNDLE_BYTES:
            raise Incomplete(f"docs/llm: bundle {name} has {size} bytes; {MAX_BUNDLE_BYTES} are allowed")
    ordered = list(dict.fromkeys(page for found in chosen.values() for page in found))
    out["llm/full.md"] = bundle(words.BUNDLE_TITLES["full"], ordered, texts)
    out["llm/llms.txt"] = index(chosen, texts, out)
    return out


def matching(patterns: Sequence[str], pages: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        found = [page for page in pages if Path(page).match(pattern) and page not in words.IN_NO_BUNDLE]
        if not found:
            raise Incomplete(f"docs/llm: no page is {pattern}")
        yield from found


def place(page: str) -> Path:
    """Where a page is in the repository."""
    return Path("src/kici/cli/templates" if page == "AGENTS.md" else "docs", page)


def url(page: str) -> str:
    return f"{words.BASE_URL}{place(page).as_posix()}"


def bundle(title: str, pages: Sequence[str], texts: Mapping[str, str]) -> str:
    parts = [
        f"# KiCI for Python: {title}\n\nPages of this bundle: {', '.join(page_title(texts[page]) for page in pages)}.\n"
    ]
    parts += [f"<!-- {url(page)} -->\n\n{for_models(texts[page], page)}" for page in pages]
    return "\n---\n\n".join(parts)


def for_models(text: str, page: str) -> str:
    """Absolute links, no notes to people who edit, plain fences."""
    text = re.sub(r"<!--\s*(?:Generated|session).*?-->\n*", "", text)
    text = re.sub(r"<!--\n.*?-->\n*", "", text, flags=re.DOTALL)
    text = re.sub(r"^```(\w+) [^\n]*$", r"```\1", text, flags=re.MULTILINE)

    def absolute(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        parts: list[str] = []
        for part in [*place(page).parent.parts, *target.split("/")]:
            if part == ".." and parts and parts[-1] != "..":
                parts.pop()
            elif part != ".":
                parts.append(part)
        return f"]({words.BASE_URL}{'/'.join(parts)})"

    return re.sub(r"\]\(([^)\s]+)\)", absolute, text).strip() + "\n"


def page_title(text: str) -> str:
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return found[1] if found else ""


def first_sentence(text: str) -> str:
    """Of the first paragraph that is neither heading, code, table nor comment."""
    body = re.sub(
        r"^```.*?^```", "", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL), flags=re.MULTILINE | re.DOTALL
    )
    for paragraph in body.split("\n\n"):
        line = " ".join(paragraph.split())
        if line and not line.startswith(("#", "|", "- ", "* ", "!", "1.")):
            sentence = re.split(r"(?<=\.)\s", line, maxsplit=1)[0].rstrip(":")
            return re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", sentence)
    return ""


def index(chosen: Mapping[str, Sequence[str]], texts: Mapping[str, str], made: Mapping[str, str]) -> str:
    out = [
        "# KiCI for Python",
        "",
        f"> {words.SUMMARY}",
        "",
        words.INDEX_INTRODUCTION,
        "",
        "## Bundles",
        "",
    ]
    for name, title in words.BUNDLE_TITLES.items():
        size = len(made[f"llm/{name}.md"].encode())
        out.append(f"- [{name}]({url(f'llm/{name}.md')}): {title}, {max(1, round(size / 1000))} kB")
    listed: set[str] = set()
    for name, pages in chosen.items():
        title = words.BUNDLE_TITLES[name]
        rows = [page for page in pages if page not in listed]
        listed |= set(rows)
        out += ["", f"## {title[0].upper()}{title[1:]}", ""]
        for page in rows:
            said = first_sentence(texts[page])
            out.append(f"- [{page_title(texts[page])}]({url(page)})" + (f": {said}" if said else ""))
    return "\n".join(out) + "\n"
