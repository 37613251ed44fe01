"""What both services say in the same way."""


def title(text: str) -> str:
    return " ".join(word.capitalize() for word in text.split())
