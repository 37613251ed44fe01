"""Packs greeter.py into dist/greeter.pyz, the same bytes on every machine."""

import pathlib
import zipfile

target = pathlib.Path("dist/greeter.pyz")
target.parent.mkdir(exist_ok=True)
with target.open("wb") as file:
    file.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(file, "w") as archive:
        member = zipfile.ZipInfo("__main__.py", date_time=(1980, 1, 1, 0, 0, 0))
        archive.writestr(member, pathlib.Path("greeter.py").read_bytes())
target.chmod(0o755)
print(f"{target}: {target.stat().st_size} bytes")
