import json

from libs.text import title


def answer(name: str) -> str:
    return json.dumps({"name": title(name)})
