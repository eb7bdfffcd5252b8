"""What `pip install .` installs: the list of requirements, the rooms, and commands that work."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest
from paths import PROJECT

with open(PROJECT / "pyproject.toml", "rb") as file:
    PYPROJECT = tomllib.load(file)
COMMANDS = [name.removeprefix("triplet-reid-") for name in PYPROJECT["project"]["scripts"]]
ROOMS = sorted(
    path.name
    for path in PROJECT.iterdir()
    if any(path.glob("*.py")) and path.name not in ("benchmarks", "tests")
)

# A net and a head as docs/extending.md has them, in a directory of one's own.
NET = """
import keras

from network.layers import BatchNorm


def build(input_shape):
    images = keras.Input(input_shape, dtype="float32", name="images")
    x = keras.layers.Conv2D(4, 3, strides=4, name="one.conv")(images / 255.0)
    features = keras.layers.GlobalAveragePooling2D(dtype="float32")(BatchNorm(name="one.norm")(x))
    return keras.Model(images, features, name="one")
"""
HEAD = """
from heads import _layers


def build(features, embedding_dim):
    emb = _layers.embedding(features, embedding_dim)
    return emb, emb
"""


def test_requirements_txt_is_what_an_installation_requires():
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == PYPROJECT["project"]["dependencies"]


def test_all_rooms_are_installed():
    packages = ["triplet_reid", *(f"triplet_reid.{name}" for name in ROOMS)]
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == packages


def test_an_image_of_a_container_has_all_rooms():
    lines = (PROJECT / ".ci" / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    folders = [line[1:] for line in lines if line.startswith("!") and (PROJECT / line[1:]).is_dir()]
    assert sorted(folders) == sorted([*ROOMS, "recipes"])


def test_all_commands_are_installed():
    files = PROJECT.glob("*.py")
    assert sorted(COMMANDS) == sorted(
        ["data"]
        + [path.stem for path in files if "common.run(main, parse_args)" in path.read_text("utf-8")]
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy: setuptools leaves its own files behind in the folder."""
    copy = tmp_path_factory.mktemp("project")
    for path in PROJECT.iterdir():
        if path.name in [*ROOMS, "recipes"]:
            shutil.copytree(path, copy / path.name)
        elif path.suffix in (".py", ".toml", ".md") or path.name == "LICENSE":
            shutil.copy(path, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", "out", "."]
    subprocess.run(command, check=True, cwd=copy)
    (built,) = (copy / "out").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Where the wheel is installed, beside the packages of this environment."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture
def elsewhere(tmp_path):
    """A directory with a net and a head of one's own."""
    for folder, text in (("nets", NET), ("heads", HEAD)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text(text)
    return tmp_path


def call(installed, cwd, command, *flags):
    return subprocess.run(
        [installed / "bin" / f"triplet-reid-{command}", *flags],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )


def test_the_wheel_holds_one_directory_with_all_that_the_rooms_hold(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"triplet_reid"}
    files = list(PROJECT.glob("*.py"))
    for room in ROOMS:
        files += [path for path in (PROJECT / room).rglob("*") if path.is_file()]
    files += (PROJECT / "recipes").glob("*.json")
    expected = {
        f"triplet_reid/{path.relative_to(PROJECT).as_posix()}"
        for path in files
        if path.suffix != ".pyc"
    }
    assert {name for name in names if "dist-info" not in name} == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_an_installed_command_tells_its_flags_in_any_directory(installed, elsewhere, command):
    done = call(installed, elsewhere, command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: triplet-reid-{command} ")
    if command == "train":
        text = " ".join(done.stdout.split())
        assert re.search(r"one of: [^.]*resnet_v1_50[^.]*, one\.", text, re.IGNORECASE)
        assert re.search(r"one of: [^.]*fc1024_normalize[^.]*, one\.", text, re.IGNORECASE)


def test_an_installed_command_of_data_sets(installed, elsewhere):
    names = call(installed, elsewhere, "data", "--help").stdout
    assert re.search(r"one of: .*check, .*folders, .*market1501, .*split, synthetic", names)
    (elsewhere / "all.csv").write_text("".join(f"{n // 3},{n}.jpg\n" for n in range(12)))
    done = call(installed, elsewhere, "data", "split", "all.csv", "--directory", "parts")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "parts" / "train.csv").exists()
    for wrong in (["splits"], []):
        done = call(installed, elsewhere, "data", *wrong)
        assert done.returncode == 2 and "NAME is one of" in done.stderr


def test_an_installed_command_ends_with_one_line(installed, elsewhere):
    done = call(installed, elsewhere, "embed", "--experiment_root=no", f"--dataset={__file__}")
    assert done.returncode == 1
    assert re.fullmatch(r"triplet-reid-embed: error: no/args.json .*\n", done.stderr)


def test_an_installed_training_knows_the_recipes_by_their_names(installed, elsewhere):
    given = ["--experiment_root=exp", "--image_root=.", "--like"]
    done = call(installed, elsewhere, "train", *given, "wildlife")
    assert done.returncode == 2 and "argument --train_set: needed" in done.stderr
    done = call(installed, elsewhere, "train", *given, "market1501_tri")
    assert done.returncode == 2 and "market1501_trinet, " in done.stderr


def test_a_training_with_a_net_and_a_head_of_the_current_directory(installed, elsewhere, dataset):
    flags = f"--experiment_root=exp --train_set={dataset.csv} --image_root={dataset.root}"
    flags += " --model_name=one --head_name=one --embedding_dim=4 --batch_p=2 --batch_k=2"
    flags += " --net_input_height=24 --net_input_width=16 --train_iterations=1"
    flags += " --decay_start_iteration=-1"
    done = call(installed, elsewhere, "train", *flags.split())
    assert done.returncode == 0, done.stderr
    assert "Finished all 1 iterations." in done.stderr
    assert (elsewhere / "exp" / "checkpoint-1.index").exists()
