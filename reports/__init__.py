import common  # noqa: F401, first of all: it answers Ctrl-C
