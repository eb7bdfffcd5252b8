#!/usr/bin/env bash
# Sets up and runs the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/setup.sh test export
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
