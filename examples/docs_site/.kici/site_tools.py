"""Markdown to HTML, as much of it as these pages use, and a check of their links."""

import re
from html import escape
from pathlib import Path

_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
_PAGE = "<!doctype html><meta charset=utf-8><title>{title}</title>\n{body}\n"


def render(text: str) -> str:
    blocks = [_block(block.strip()) for block in text.split("\n\n") if block.strip()]
    title = re.sub(r"<[^>]+>", "", blocks[0]) if blocks else ""
    return _PAGE.format(title=title, body="\n".join(blocks))


def build_site(source: Path, out: Path) -> int:
    """The number of pages."""
    out.mkdir(parents=True, exist_ok=True)
    pages = sorted(source.glob("*.md"))
    for page in pages:
        (out / f"{page.stem}.html").write_text(render(page.read_text("utf-8")), "utf-8")
    return len(pages)


def broken_links(source: Path) -> list[tuple[str, int, str]]:
    """File, line and target of each link that leads nowhere."""
    return [
        (page.name, number, target)
        for page in sorted(source.glob("*.md"))
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1)
        for _, target in _LINK.findall(line)
        if "://" not in target and not (source / target).is_file()
    ]


def _block(block: str) -> str:
    if block.startswith("# "):
        return f"<h1>{_inline(block[2:])}</h1>"
    if block.startswith("* "):
        return "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in block.splitlines()) + "</ul>"
    return f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    return _LINK.sub(
        lambda found: f'<a href="{found[2].replace(".md", ".html")}">{found[1]}</a>', escape(text)
    )
