"""The dashboard's files: caching, compression, deep links, nothing outside the folder (PD-4…6)."""

from pathlib import Path
from typing import Any

import pytest

from kici.platform.http.static import StaticFiles, security_headers

INDEX = b'<!doctype html><base href="/" /><script type="module" src="assets/app-1a2b.js"></script>'


@pytest.fixture
def folder(tmp_path: Path):
    (tmp_path / "secret.txt").write_text("outside")
    build = tmp_path / "static"
    (build / "assets").mkdir(parents=True)
    (build / "index.html").write_bytes(INDEX)
    (build / "favicon.svg").write_bytes(b"<svg/>")
    (build / "assets" / "app-1a2b.js").write_bytes(b"console.log(1)")
    (build / "assets" / "app-1a2b.js.br").write_bytes(b"BR")
    (build / "assets" / "app-1a2b.js.gz").write_bytes(b"GZ")
    return build


async def get(files: StaticFiles, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]):
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await files.serve(path, {"method": "GET", "headers": raw}, send)
    start, body = sent
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, body["body"]


async def test_assets_are_for_ever_and_the_index_never(folder: Path):
    files = StaticFiles(str(folder), base_path="/")
    status, headers, body = await get(files, "assets/app-1a2b.js")
    assert (status, body) == (200, b"console.log(1)")
    assert "immutable" in headers["cache-control"]
    assert headers["content-type"].startswith("text/javascript")
    for path in ("", "index.html", "orgs/org_x/runs/1"):
        status, headers, body = await get(files, path)
        assert (status, headers["cache-control"], body) == (200, "no-cache", INDEX)


async def test_precompressed_files_are_served_to_who_takes_them(folder: Path):
    files = StaticFiles(str(folder), base_path="/")
    for accept, encoding, body in (
        ("gzip, deflate, br", "br", b"BR"),
        ("gzip", "gzip", b"GZ"),
        ("identity", None, b"console.log(1)"),
    ):
        _, headers, got = await get(files, "assets/app-1a2b.js", accept_encoding=accept)
        assert (headers.get("content-encoding"), got) == (encoding, body)


async def test_an_asset_of_another_build_is_missing_not_the_index(folder: Path):
    status, _, _ = await get(StaticFiles(str(folder), base_path="/"), "assets/app-old.js")
    assert status == 404


async def test_nothing_outside_the_folder_is_served(folder: Path):
    files = StaticFiles(str(folder), base_path="/")
    for path in ("../secret.txt", "assets/../../secret.txt", "/etc/passwd"):
        _, _, body = await get(files, path)
        assert b"outside" not in body
        assert b"root:" not in body


async def test_unchanged_files_are_not_sent_again(folder: Path):
    files = StaticFiles(str(folder), base_path="/")
    _, headers, _ = await get(files, "favicon.svg")
    status, _, body = await get(files, "favicon.svg", if_none_match=headers["etag"])
    assert (status, body) == (304, b"")


async def test_the_base_path_reaches_the_page(folder: Path):
    _, _, body = await get(StaticFiles(str(folder), base_path="/kici/"), "runs")
    assert b'<base href="/kici/" />' in body


async def test_without_a_build_it_says_so(tmp_path: Path):
    status, _, body = await get(StaticFiles(str(tmp_path / "none"), base_path="/"), "")
    assert status == 200
    assert b"not built" in body


def test_scripts_come_from_here_only():
    headers = dict(security_headers(secure=True))
    policy = headers[b"content-security-policy"].decode()
    assert "script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert b"strict-transport-security" in headers
    assert b"strict-transport-security" not in dict(security_headers(secure=False))
