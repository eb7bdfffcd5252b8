# Sourced by demo.sh and test.sh: makes .venv unless a virtual environment is active, and installs a requirements file.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/pip ] || python3 -m venv .venv
    . .venv/bin/activate
fi
echo "Installing what $1 names into $VIRTUAL_ENV"
python -m pip install --quiet --disable-pip-version-check -r "$1"
