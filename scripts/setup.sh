#!/bin/sh
# Brings a bare machine (Python 3.11+, git, make) to a ready checkout: uv, the locked dependencies in
# .venv, the built dashboard; with `tests`, also the system packages the tests use (root on Debian).
# Idempotent and quick when nothing changed.
set -eu
cd "$(dirname "$0")/.."
say() { printf '  %s\n' "$*" >&2; }

python=
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "KiCI needs Python 3.11 or newer; none was found on PATH." >&2
    exit 1
fi

apt_install() { # quiet, root on Debian and Ubuntu only
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
    say "installing system packages: $*"
    mkdir -p .make
    {
        DEBIAN_FRONTEND=noninteractive apt-get update -q &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
    } >.make/apt.log 2>&1 || {
        tail -n 5 .make/apt.log >&2
        return 1
    }
}

uv=$(command -v uv || true)
[ -n "$uv" ] || uv=.make/uv/bin/uv
if [ ! -x "$uv" ]; then
    say "installing uv"
    mkdir -p .make
    if ! "$python" -m venv .make/uv >.make/uv.log 2>&1; then
        apt_install python3-venv && rm -rf .make/uv && "$python" -m venv .make/uv >.make/uv.log 2>&1 || {
            cat .make/uv.log >&2
            echo "Cannot make a virtual environment: install your system's python3-venv package." >&2
            exit 1
        }
    fi
    .make/uv/bin/pip install -q --disable-pip-version-check 'uv>=0.7'
fi

# The locked dependencies, then this checkout on top, editable. Skipped when neither list changed.
export UV_PYTHON_DOWNLOADS=never
stamp=$(cat requirements.lock pyproject.toml | cksum)
if [ ! -x .venv/bin/python ] || [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
    say "installing the locked dependencies into .venv"
    [ -x .venv/bin/python ] || "$uv" venv -q --python "$("$python" -c 'import sys; print(sys.executable)')" .venv
    VIRTUAL_ENV=$PWD/.venv "$uv" pip sync -q --require-hashes requirements.lock
    VIRTUAL_ENV=$PWD/.venv "$uv" pip install -q --no-deps --no-build-isolation -e .
    printf '%s' "$stamp" >.venv/.stamp
fi

if [ -f dashboard/package.json ]; then
    sh scripts/build_dashboard.sh
fi

if [ "${1:-}" = tests ]; then
    missing=
    for pair in chromium:chromium podman:podman runc:runc bwrap:bubblewrap; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
    done
    # shellcheck disable=SC2086
    [ -z "$missing" ] || apt_install $missing || say "not installed:$missing (their tests will skip)"
fi
