# Sourced by demo.sh and test.sh: makes .venv unless a virtual environment is active, and installs requirements.txt and
# the extras of pyproject.toml that are named. The project itself is not installed: the checkout is what runs.
if [ -z "${VIRTUAL_ENV:-}" ]; then
    [ -x .venv/bin/pip ] || python3 -m venv .venv
    . .venv/bin/activate
fi
extras=$(
    python - "$@" <<'END'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
for name in sys.argv[1:]:
    print(*(line for line in extras[name] if not line.startswith("triplet-reid[")), sep="\n")
END
)
echo "Installing what is needed${*:+ for $*} into $VIRTUAL_ENV"
python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r /dev/stdin <<<"$extras"
