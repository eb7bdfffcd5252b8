#!/usr/bin/env bash
# Set up and run the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/setup.sh test
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
