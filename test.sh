#!/usr/bin/env bash
# Set up and run the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
. .ci/setup.sh test
ruff check .
ruff format --check .
mypy
# Two processes, each with whole files: the tests of a file share trainings. More need 4 GB of memory each.
python -m pytest -n 2 --dist loadfile "$@"
