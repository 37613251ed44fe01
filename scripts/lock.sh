#!/bin/sh
# Resolves pyproject.toml into requirements.lock: exact versions and hashes for every platform and Python, and
# no word about where they come from, so that mirrors and private indexes work unchanged.
set -eu
cd "$(dirname "$0")/.."
uv=$(command -v uv || echo .venv/bin/uv)
"$uv" pip compile -q pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url -o requirements.lock
