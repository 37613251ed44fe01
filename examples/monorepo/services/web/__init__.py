from html import escape

from libs.text import title


def page(name: str) -> str:
    return f"<h1>{escape(title(name))}</h1>"
