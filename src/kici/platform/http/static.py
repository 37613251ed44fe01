"""The dashboard's build: hashed assets for ever, index.html never cached, everything else is the SPA.

Files are listed once at start; nothing outside that list is ever opened. Precompressed siblings
(`.br`, `.gz`) are served when the browser takes them (PD-5, PD-6).
"""

import hashlib
import mimetypes
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_ENCODINGS = ((b"br", ".br"), (b"gzip", ".gz"))
_TEXT = ("text/", "application/javascript", "application/json", "image/svg+xml")

# Styles may be inline: the component library sets them at run time. Scripts may not.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_MISSING = (
    b"<!doctype html><title>KiCI</title><p>The dashboard is not built into this installation. "
    b"The API is at <code>/api/v1</code>."
)


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    content_type: bytes
    etag: bytes
    immutable: bool
    encoded: dict[bytes, bytes]


def security_headers(*, secure: bool) -> list[tuple[bytes, bytes]]:
    """On every response of ours."""
    headers = [
        (b"content-security-policy", _POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"x-frame-options", b"DENY"),
    ]
    if secure:
        headers.append((b"strict-transport-security", b"max-age=31536000"))
    return headers


class StaticFiles:
    def __init__(self, folder: str, *, base_path: str) -> None:
        self._files = dict(_read(folder))
        index = self._files.get("index.html")
        if index is None:
            self._index = _File(_MISSING, b"text/html; charset=utf-8", b'"none"', False, {})
        else:
            # Deep links load assets relative to this; the build is made for "/".
            body = index.body.replace(b'<base href="/"', b'<base href="%b"' % base_path.encode())
            same = body == index.body
            self._index = _File(body, index.content_type, _etag(body), False, index.encoded if same else {})
        self._files.pop("index.html", None)

    async def serve(self, path: str, scope: Scope, send: Send) -> None:
        """`path` without base path and leading slash."""
        file = self._files.get(path)
        if file is None and path.startswith("assets/"):
            # An asset of another build: the SPA must not be served in its place.
            await _respond(send, 404, [(b"content-type", b"text/plain")], b"not found", head=False)
            return
        file = file or self._index
        wanted = {
            name: value
            for name, value in scope["headers"]
            if name in {b"accept-encoding", b"if-none-match"}
        }
        cache = b"public, max-age=31536000, immutable" if file.immutable else b"no-cache"
        headers = [
            (b"content-type", file.content_type),
            (b"cache-control", cache),
            (b"etag", file.etag),
            (b"vary", b"accept-encoding"),
        ]
        if wanted.get(b"if-none-match") == file.etag:
            await _respond(send, 304, headers, b"", head=True)
            return
        accepted = {part.split(b";")[0].strip() for part in wanted.get(b"accept-encoding", b"").split(b",")}
        body = file.body
        for encoding, encoded in file.encoded.items():
            if encoding in accepted:
                body = encoded
                headers.append((b"content-encoding", encoding))
                break
        await _respond(send, 200, headers, body, head=scope["method"] == "HEAD")


async def _respond(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, *, head: bool
) -> None:
    if status != 304:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


def _etag(body: bytes) -> bytes:
    return b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode()


def _read(folder: str) -> list[tuple[str, _File]]:
    """A build is a few MB: it is kept in memory."""
    files: list[tuple[str, _File]] = []
    for parent, _, names in os.walk(folder):
        present = set(names)
        for name in names:
            if name.endswith((".br", ".gz", ".map")):
                continue
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            if kind.startswith(_TEXT):
                kind += "; charset=utf-8"
            with open(path, "rb") as file:
                body = file.read()
            encoded: dict[bytes, bytes] = {}
            for encoding, suffix in _ENCODINGS:
                if name + suffix in present:
                    with open(path + suffix, "rb") as file:
                        encoded[encoding] = file.read()
            files.append(
                (relative, _File(body, kind.encode(), _etag(body), relative.startswith("assets/"), encoded))
            )
    return files
