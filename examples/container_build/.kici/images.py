"""A container image in the OCI layout, made from a folder without any daemon."""

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Image:
    tag: str
    digest: str
    size: int


def build_image(source: Path, layout: Path, tag: str, command: list[str]) -> Image:
    """Writes `layout`; the same sources give the same digest, on every machine."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    layer = _layer(source)
    packed = gzip.compress(layer, mtime=0)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": command, "WorkingDir": "/app"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _put(blobs, config, "application/vnd.oci.image.config.v1+json"),
            "layers": [_put(blobs, packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
    )
    entry = _put(blobs, manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    size = sum(path.stat().st_size for path in blobs.iterdir())
    return Image(tag=tag, digest=str(entry["digest"]), size=size)


def unpack(layout: Path, root: Path) -> list[str]:
    """What a runtime does: follow the digests, check them, unpack the layers. Returns the command."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(_get(layout, index["manifests"][0]))
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(_get(layout, layer)))) as archive:
            archive.extractall(root, filter="data")
    return json.loads(_get(layout, manifest["config"]))["config"]["Cmd"]


def _layer(source: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(
            path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ):
            entry = tarfile.TarInfo(f"app/{path.relative_to(source).as_posix()}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return packed.getvalue()


def _put(blobs: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _get(layout: Path, entry: dict[str, Any]) -> bytes:
    name = str(entry["digest"]).removeprefix("sha256:")
    data = (layout / "blobs" / "sha256" / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != name:
        raise ValueError(f"blob {name} is damaged")
    return data


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
