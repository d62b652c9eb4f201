#!/bin/sh
# Writes requirements.lock, requirements-dev.lock and that of the Python matrix anew: `make lock`.
set -eu
cd "$(dirname -- "$0")/.."

PIP_TOOLS_VERSION=7.6.2
python=${PYTHON:-/usr/bin/python3}
venv=build/lock-venv

[ -x "$venv/bin/pip-compile" ] || {
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "pip-tools==$PIP_TOOLS_VERSION"
}

# compile OUTPUT TITLE ARGUMENTS...
compile() {
    output=$1 title=$2 new=build/${1##*/}
    shift 2
    "$venv/bin/pip-compile" --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        --no-emit-trusted-host --output-file "$new" "$@"
    { printf '%s\n' "$title" && cat "$new"; } >"$output"
}

compile requirements.lock "# What the agent needs, and what builds its package. Written by \`make lock\` from
# pyproject.toml: do not edit." --all-build-deps pyproject.toml
compile requirements-dev.lock "# What \`make check\` needs beside requirements.lock. Written by \`make lock\` from
# requirements-dev.in: do not edit." --constraint requirements.lock requirements-dev.in
compile tests/peers/requirements-python.txt "# What the Python matrix needs (make test-python). Written by \`make lock\` from
# requirements-python.in: do not edit." tests/peers/requirements-python.in
compile tests/bench/requirements-sdk.txt "# What \`python -m tests.bench python\` runs. Written by \`make lock\` from
# requirements-sdk.in: do not edit." tests/bench/requirements-sdk.in
