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


def requirements(names):
    for line in (line for name in names for line in extras[name]):
        if line.startswith("triplet-reid["):  # other extras
            yield from requirements(line.removeprefix("triplet-reid[").removesuffix("]").split(","))
        else:
            yield line


print(*requirements(sys.argv[1:]), sep="\n")
END
)
echo "Installing what is needed${*:+ for $*} into $VIRTUAL_ENV"
python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r /dev/stdin <<<"$extras"
