import argparse
import ast
import errno
import os
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest

import common
import excluders
from common import UserError
from excluders import _same
from experiment import args_json
from runtime import terminal


def test_a_space_that_would_not_be_seen_is_quoted():
    assert common.first_few(["a b", " c", "d "]) == "a b, ' c', 'd '"


def test_plugins_are_the_files_of_their_folder():
    assert {"resnet_v1_50", "resnet_v1_101", "mobilenet_v1_1_224", "lunet"} <= set(
        common.plugin_names("nets")
    )
    assert {"bnneck", "direct", "direct_normalize", "fc1024", "fc1024_normalize"} == set(
        common.plugin_names("heads")
    )
    assert {"cameras", "cuhk03", "diagonal", "duke", "market1501", "msmt17", "veri776"} == set(
        common.plugin_names("excluders")
    )


@pytest.mark.parametrize("name", ["nothing", "_lunet", "__init__", "../common", "os", ""])
def test_another_name_imports_nothing_and_lists_what_there_is(name):
    before = set(sys.modules)
    with pytest.raises(UserError, match="Available: .*resnet_v1_50"):
        common.load_plugin("nets", name)
    assert set(sys.modules) == before


@pytest.fixture
def own_excluders(tmp_path, monkeypatch):
    """The folder excluders/ of a current directory; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(excluders, "__path__", list(excluders.__path__))
    (tmp_path / "excluders").mkdir()
    before = set(sys.modules)
    yield tmp_path / "excluders"
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_plugins_of_the_current_directory_come_after_those_of_the_project(own_excluders):
    ours = common.plugin_names("excluders")
    (own_excluders / "a.py").write_text(
        "from common import UserError\n"
        "from excluders import _helper\n"
        "from excluders._same import Same\n"
        "def build(first, second, third=3): ...\n"
    )
    (own_excluders / "_helper.py").touch()
    (own_excluders / "__init__.py").write_text("raise AssertionError")
    assert common.plugin_names("excluders") == [*ours, "a"]
    assert common.plugin_name("excluders")("a") == "a"
    assert common.load_plugin("excluders", "a").Same is _same.Same
    assert common.load_plugin("excluders", "duke").__file__ == str(
        common.HERE / "excluders" / "duke.py"
    )
    assert common.build_options("excluders", "a") == ["second", "third"]
    assert common.build_options("excluders", "duke") == []


@pytest.mark.parametrize("name", ["duke", "_same"])
def test_a_name_that_is_there_twice_is_told_with_both_files(own_excluders, name):
    (own_excluders / "a.py").touch()
    own = own_excluders / f"{name}.py"
    ours = common.HERE / "excluders" / own.name
    own.write_text("# another")
    chosen = "a" if name == "_same" else name
    with pytest.raises(UserError, match=f"{ours} and {own} .* differ"):
        common.load_plugin("excluders", chosen)
    assert common.load_plugin("excluders", "market1501")  # the others do not mind
    own.write_bytes(ours.read_bytes())  # a copy is the same plug-in, in another checkout say
    assert common.load_plugin("excluders", chosen)
    assert common.plugin_names("excluders").count(name) == (name == "duke")


def test_a_flag_says_why_a_plugin_cannot_be_told_from_another(own_excluders):
    (own_excluders / "duke.py").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="duke.py and .*duke.py .* differ"):
        common.plugin_name("excluders")("duke")
    with pytest.raises(argparse.ArgumentTypeError, match="Available: cameras, .*veri776$"):
        common.plugin_name("excluders")("nothing")


def test_nothing_is_listed_twice_in_the_project_itself(tmp_path, monkeypatch):
    names = [path.stem for path in sorted((common.HERE / "nets").glob("[!_]*.py"))]
    (tmp_path / "link").symlink_to(common.HERE)
    for folder in (common.HERE, tmp_path / "link", common.HERE / "nets"):
        monkeypatch.chdir(folder)
        assert common.plugin_names("nets") == names


def test_a_current_directory_that_was_removed_has_no_plugins(tmp_path, monkeypatch):
    names = common.plugin_names("heads")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert common.plugin_names("heads") == names


@pytest.mark.parametrize(
    "text, message", [(None, "no experiment"), ("{", "cannot be read as JSON"), ("[1]", "list")]
)
def test_args_json_that_is_none(tmp_path, text, message):
    if text is not None:
        (tmp_path / "args.json").write_text(text)
    with pytest.raises(UserError, match=message):
        args_json.read(tmp_path)


def test_log_lines_go_to_the_screen_and_to_the_end_of_the_file(tmp_path, capfd):
    for message in ("first", "second"):
        log = terminal.setup_logging("test")
        log.warning(message)
        terminal.log_to(tmp_path / "a.log")
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        "[WARNING] test: first",
        "[WARNING] test: second",
    ]
    assert capfd.readouterr().err.count("\n") == 2
    terminal.setup_logging("test")  # closes the file


def test_help_tells_the_defaults_that_there_are():
    parser = common.make_parser("A command.")
    for name, default in (
        ("zero", 0),
        ("number", 2.5),
        ("list", [1, "b"]),
        ("none", None),
        ("text", "x"),
    ):
        parser.add_argument(f"--{name}", default=default, help=f"Of {name}.")
    parser.add_argument("--switch", action="store_true", help="Of switch.")
    told = dict(re.findall(r"Of (\w+)\.(?: \(default: (.*)\))?", parser.format_help()))
    assert told == {
        "zero": "0",
        "number": "2.5",
        "list": "1 b",
        "none": "",
        "text": "x",
        "switch": "",
    }


def test_a_user_error_ends_a_command_with_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/embed.py"])

    def main(args):
        raise UserError("this is wrong.")

    with pytest.raises(SystemExit) as end:
        common.run(main, lambda: None)
    assert end.value.code == "embed.py: error: this is wrong."  # printed to stderr, exit code 1


def test_names_that_cannot_be_written(tmp_path, monkeypatch):
    for name, message in ((tmp_path, "is a directory"), (tmp_path / "no" / "x", "does not exist")):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            common.writeable_file(str(name))
    monkeypatch.setattr(os, "access", lambda *_: False)  # permissions do not bind root
    with pytest.raises(argparse.ArgumentTypeError, match="not writeable"):
        common.writeable_file(str(tmp_path / "x"))
    assert not list(tmp_path.iterdir())


def test_directories_that_cannot_be_written(tmp_path, monkeypatch):
    for name in (tmp_path, tmp_path / "new"):
        assert common.writeable_directory(str(name)) == str(name)
    (tmp_path / "file").touch()
    for name, message in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "no" / "x", "does not exist"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            common.writeable_directory(str(name))
    monkeypatch.setattr(os, "access", lambda *_: False)
    for name in (tmp_path, tmp_path / "new"):
        with pytest.raises(argparse.ArgumentTypeError, match="not writeable"):
            common.writeable_directory(str(name))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "error, code, words",
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, None),
        (KeyboardInterrupt(), 130, None),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            None,
            "cannot use a/b: Permission denied",
        ),
    ],
)
def test_ends_that_are_no_bugs_show_no_traceback(error, code, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(
        os, "dup2", lambda *_: None
    )  # the broken pipe's stdout is this process's own

    def main(args):
        raise error

    with pytest.raises(SystemExit, match=words) as end:
        common.run(main, lambda: None)
    assert words or end.value.code == code


def test_a_full_disk_ends_a_command_with_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])

    def main(args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SystemExit, match="the disk is full .*No space left.*--resume"):
        common.run(main, lambda: None)


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), r"out of memory \(MemoryError\).*smaller --batch_size.*--resume"),
        (np.exceptions.AxisError("axis"), None),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "out of memory .*Cannot allocate"),
        (OSError("Unable to create dataset (memory allocation failed)"), "out of memory"),  # h5py's
        (OSError("Can't write data (error message = 'No space left on device')"), "disk is full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "a/b"), "the disk is full .*: a/b"),
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x.jpg"),
            "many files are .*x.jpg.*ulimit",
        ),
        (RuntimeError("can't start new thread"), "no more threads.*ulimit -u.*--loading_threads"),
        (RuntimeError("a bug"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_what_ran_out_is_told_with_what_helps(error, words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["embed.py"])

    def main(args):
        raise error

    with pytest.raises(SystemExit if words else type(error), match=words):
        common.run(main, lambda: None)


def test_an_array_beyond_the_memory_is_told(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    with pytest.raises(SystemExit, match="evaluate.py: error: out of memory .*Unable to allocate"):
        common.run(lambda _: np.empty(2**60, np.int8), lambda: None)


def python(code, before="", after=""):
    """Run Python code in a shell, in the project's folder."""
    command = f"{before} {shlex.quote(sys.executable)} -c {shlex.quote(code)} {after}"
    return subprocess.run(command, shell=True, cwd=common.HERE, capture_output=True, text=True)


def test_ctrl_c_while_a_command_imports_is_answered_in_one_line():
    for argv0, answered in ((common.HERE / "train.py", True), ("/elsewhere/my.py", False)):
        code = f"import sys; sys.argv = ['{argv0}']; import common; raise KeyboardInterrupt"
        done = python(code)
        assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
        assert (done.stderr == "Interrupted.\n") == answered


@pytest.mark.parametrize(
    "module, answered", [("tqdm", True), ("PIL", True), ("tensorflow.x", True), ("mine", False)]
)
def test_a_missing_requirement_is_told_in_one_line(module, answered):
    code = f"import sys; sys.argv = [{str(common.HERE / 'train.py')!r}]; import common\n"
    code += f"raise ModuleNotFoundError('No module named', name={module!r})"
    done = python(code)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    if answered:
        assert len(lines) == 1
        assert lines[0].startswith(f"train.py: error: {module} is not installed for ")
        assert lines[0].endswith("else pip install -r requirements.txt.")
    else:
        assert lines[0].startswith("Traceback")


def test_streams_that_are_closed_are_no_end_and_get_no_file(tmp_path):
    path = tmp_path / "x"
    code = (
        "import sys, common\n"
        "def main(_):\n"
        "    print('out'); print('err', file=sys.stderr); sys.stdin.read()\n"
        f"    with open({str(path)!r}, 'w') as file: file.write(str(file.fileno()))\n"
        "common.run(main, lambda: None)"
    )
    done = python(code, after="<&- >&- 2>&-")
    assert done.returncode == 0 and int(path.read_text()) > 2


@pytest.mark.parametrize(
    "error", ["common.UserError('wrong')", "PermissionError(13, 'wrong', 'x')"]
)
def test_nothing_that_is_left_open_complains_after_the_error(error):
    code = (
        "import common\n"
        "class Open:\n"
        "    def __del__(self): raise OSError('Bad file descriptor')\n"
        "def main(_):\n"
        "    common.left = Open()\n"
        f"    raise {error}\n"
        "common.run(main, lambda: None)"
    )
    done = python(code)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "wrong" in done.stderr


def test_names_that_a_terminal_cannot_show_are_escaped():
    code = "import common\ncommon.run(lambda _: print('Ägypten \\udcff'), lambda: None)"
    done = python(code, before="PYTHONIOENCODING=ascii PYTHONUTF8=0")
    assert (done.returncode, done.stdout) == (0, "\\xc4gypten \\udcff\n")


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (common.positive_int, ["1", str(2**63 - 1)], ["0", "x", "1.5", str(2**63), "9" * 5000]),
        (common.integer(2, most=9), ["2", "9"], ["1", "10"]),
        (common.positive_float, ["1e-9", "1e38"], ["0", "nan", "inf", "1e39", "x"]),
    ],
)
def test_numbers_have_bounds(kind, good, bad):
    for text in good:
        assert kind(text) == ast.literal_eval(text)
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError, match=f"should be .*Received: {text[:100]}"):
            kind(text)


def test_what_is_no_utf_8_ends_before_anything_else(capsys):
    parser = common.make_parser("A command.")
    common.add_flag(parser, "experiment_root")
    with pytest.raises(SystemExit):
        parser.parse_args(["--experiment_root", os.fsdecode(b"exp\xff")])
    assert r"paths should be UTF-8. Received: 'exp\udcff'" in capsys.readouterr().err
    assert parser.parse_args(["--experiment_root", "Ägypten"]).experiment_root == "Ägypten"


def test_what_cannot_be_logged_is_raised(tmp_path):
    (tmp_path / "full.log").symlink_to("/dev/full")
    logger = terminal.setup_logging("test")
    terminal.log_to(tmp_path / "full.log")
    with pytest.raises(OSError, match="No space left"):
        logger.info("a line")
    file = logger.handlers[-1]
    with pytest.raises(OSError, match="No space left"):
        file.stream.close()
    file.stream = None
    terminal.setup_logging("test")


def test_what_is_not_seen_but_does_something_is_escaped():
    assert common.visible("a\x1b[2J\tb") == r"a\x1b[2J\tb"
    assert common.visible("a\tb\nc\x07", keep="\t\n") == "a\tb\nc\\x07"
    assert common.visible("gpj.\u202eexe \udcff \u2028") == r"gpj.\u202eexe \udcff \u2028"
    assert common.visible("Ägypten 中文 👩‍👧 \\") == "Ägypten 中文 👩‍👧 \\"


def test_names_in_logs_and_errors_obey_nothing(tmp_path, capfd, monkeypatch):
    log = terminal.setup_logging("test")
    terminal.log_to(tmp_path / "a.log")
    log.warning("an image \x1b]0;x\n2026 [INFO] train: iter: 5, \udcff")
    terminal.setup_logging("test")
    escaped = r"an image \x1b]0;x\n2026 [INFO] train: iter: 5, \udcff"
    assert (tmp_path / "a.log").read_text().endswith(f"[WARNING] test: {escaped}\n")
    assert escaped in capfd.readouterr().err
    monkeypatch.setattr(sys, "argv", ["embed.py"])

    def main(args):
        raise UserError("\x1b.jpg")

    with pytest.raises(SystemExit) as end:
        common.run(main, lambda: None)
    assert end.value.code == r"embed.py: error: \x1b.jpg"


def test_a_name_longer_than_file_systems_allow(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match="at most 255 bytes"):
        common.writeable_file(str(tmp_path / ("ä" * 128)))
    assert common.writeable_file(str(tmp_path / ("x" * 255)))


def test_the_groups_of_a_regular_expression_are_counted():
    assert [common.group_count(regex) for regex in ("", r"c(\d)", "(a)(?:b)(?P<c>d)")] == [0, 1, 2]
    assert [common.has_one_group(regex) for regex in ("", "(a)", "(a)(b)", "(")] == [
        False,
        True,
        False,
        False,
    ]
    assert common.group_count("[[a](b)") == 1  # which Python warns of
    for regex in ("(", "a{9999999999}", "(" * 5000 + ")" * 5000):
        with pytest.raises(ValueError):
            common.group_count(regex)
