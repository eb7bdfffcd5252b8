"""The house keeps its order: imports go down README's map, --help is light, functions are short."""

import ast
import graphlib
import re
import subprocess
import sys

import pytest
from paths import PROJECT

BESIDE = {"benchmarks/", "tests/"}  # they import what they need; nothing imports them

MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*PROJECT.glob("*.py"), *PROJECT.glob("[!.]*/**/*.py")]
    if any(PROJECT.glob(f"{path.relative_to(PROJECT).parts[0]}/*.py")) or path.parent == PROJECT
}


def room(module):
    """The entry at the top of the project that a module is, or is in."""
    top = module.partition(".")[0]
    return f"{top}/" if (PROJECT / top).is_dir() else f"{top}.py"


def tree(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imported(nodes):
    """Full names of what is imported: of modules, or of what is in them."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def our_imports(module):
    """The modules of the project that a module imports, also within its functions."""
    for name in imported(ast.walk(tree(module))):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            yield name


def readme_map():
    """The rows of the map, from the top to the bottom: the names in each row's first cell."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)[2:]
    return [re.findall(r"`([\w/.]+)`", cell) for cell in first_cells]


HOUSE = [module for module in MODULES if room(module) not in BESIDE]


def test_every_room_is_on_the_map():
    on_the_map = [name for row in readme_map() for name in row]
    assert sorted(on_the_map) == sorted({room(module) for module in HOUSE})


def test_imports_go_down_the_map():
    floor = {name: number for number, row in enumerate(readme_map()) for name in row}
    upwards = []
    for module in HOUSE:
        for other in our_imports(module):
            here = room(module)
            there = room(other)
            if there in BESIDE or (there != here and floor[there] <= floor[here]):
                upwards.append(f"{module} imports {other}")
    assert not upwards, "\n".join(upwards)


def test_no_imports_in_a_circle():
    graph = {module: set(our_imports(module)) - {module} for module in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_module_needs_a_posix_system_to_be_imported():
    posix = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
    found = [
        f"{module} imports {name}"
        for module in MODULES
        if room(module) != "tests/"
        for name in imported(tree(module).body)
        if name.partition(".")[0] in posix
    ]
    assert not found, "\n".join(found)


def test_no_function_is_longer_than_80_lines():
    """Except those whose first line says so to ruff, too: noqa: PLR0915."""
    long = []
    for module in MODULES:
        lines = MODULES[module].read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 80:
                signature = "".join(lines[node.lineno - 1 : node.body[0].lineno])
                if not re.search(r"# noqa: .*PLR0915", signature):
                    length = node.end_lineno - node.lineno + 1
                    long.append(f"{module}.{node.name}: {length} lines")
    assert not long, "\n".join(long)


# ------------------------------------------------------------------------- --help

COMMANDS = [
    module
    for module in HOUSE
    if re.search(r'if __name__ == "__main__":\n    \w+\.run\(', MODULES[module].read_text("utf-8"))
]
# What Windows lacks is taken away; the last line tells what has been imported.
RUN = """
import os, runpy, signal, sys
for name in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in dir(signal):
    windows = "SIGABRT SIGBREAK SIGFPE SIGILL SIGINT SIGSEGV SIGTERM SIG_DFL SIG_IGN".split()
    if name.startswith(("SIG", "pthread_", "sig")) and name not in windows:
        if name not in ("signal", "siginterrupt"):
            delattr(signal, name)
del os.set_blocking
del sys.argv[0]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("flag, code", [("--help", 0), ("--nonsense", 2)])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_flag_errors_need_neither_tensorflow_nor_posix(command, flag, code):
    argv = [sys.executable, "-c", RUN, command, flag]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=PROJECT, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith("usage: ") == (code == 0)
    heavy = {"tensorflow", "keras", "pandas", "matplotlib", "scipy"}
    assert heavy & set(done.stderr.splitlines()[-1].split()) == set()
