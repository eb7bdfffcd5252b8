"""Weights of PyTorch in safetensors files; test_torch_nets.py compares whole nets."""

import json
import pickle
import struct
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from paths import GOLDEN
from safetensors.numpy import save_file
from weights import refuse

from nets import mobilenet_v2_torch
from network import pretrained, readers, torch_weights

KERNEL = np.arange(24, dtype=np.float32).reshape(4, 3, 2, 1)  # [out, in, h, w]
BIAS = np.array([1, 2, 3, 4], np.float32)


def variables():
    return {
        "net/layer1/0/conv/weights": keras.Variable(np.zeros((2, 1, 3, 4), np.float32)),
        "net/layer1/0/conv/biases": keras.Variable(np.zeros(4, np.float32)),
    }


def load(path, wanted):
    return pretrained.load_net(path, "lunet_narrow", wanted)


@pytest.mark.parametrize(
    "prefix",
    ["", "base.", "backbone.", "module.", "module.backbone.", "student.backbone.", "layer1.0."],
)
def test_what_stands_before_the_names_is_recognized(tmp_path, prefix):
    path = tmp_path / "net.safetensors"
    tensors = {f"{prefix}layer1.0.conv.weight": KERNEL, f"{prefix}layer1.0.conv.bias": BIAS}
    save_file(tensors | {"fc.weight": BIAS, "layer1.0.bn.num_batches_tracked": BIAS}, path)
    wanted = variables()
    told = load(path, wanted)
    assert (sorted(told.taken), told.passed_over, told.missing) == (
        sorted(wanted),
        ["fc.weight"],
        [],
    )
    kernel, bias = wanted.values()
    for out, inner, h in np.ndindex(4, 3, 2):
        assert kernel.numpy()[h, 0, inner, out] == KERNEL[out, inner, h, 0]
    assert bias.numpy().tolist() == BIAS.tolist()


PREFIXES = ["base.", "backbone.", "module.", "module.backbone.", "model.", "net.", "encoder."]
PREFIXES += ["student.", "teacher.", "student.backbone.", "teacher.module.backbone.", "state_dict."]
SHAPES = json.loads((GOLDEN / "torch_nets_shapes.json").read_text())


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("net", SHAPES)
def test_every_net_is_found_behind_every_prefix(net, prefix, monkeypatch):
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES[net].items()}
    stored = {f"{prefix}{name}": array for name, array in zeros.items()}
    monkeypatch.setattr(torch_weights, "_load", lambda path: {**stored, "fc.weight": BIAS})
    names = [name for name in zeros if "num_batches_tracked" not in name]
    names = [name for name in names if not name.startswith(("fc.", "classifier.", "head."))]
    grid = SimpleNamespace(
        shape=(2, 1, zeros["pos_embed"].shape[-1]) if "pos_embed" in zeros else ()
    )
    ours = [name.replace(".", "/").replace("/gamma", "/layer_scale") for name in names]
    wanted = {f"{net}/{name}": grid for name in ours}
    read = torch_weights.read("net.safetensors", wanted)
    assert wanted.keys() <= read.keys()


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_names_of_timm_are_taken_for_those_of_torchvision(prefix, monkeypatch):
    net = "mobilenet_v2_torch"
    timm = json.loads((GOLDEN / "timm_mobilenetv2_shapes.json").read_text())
    stored = {f"{prefix}{name}": np.zeros(shape, np.float32) for name, shape in timm.items()}
    monkeypatch.setattr(torch_weights, "_load", lambda path: stored)
    weights = [name for name in SHAPES[net] if "num_batches_tracked" not in name]
    weights = [name for name in weights if not name.startswith("classifier.")]
    wanted = {f"{net}/{name}".replace(".", "/"): None for name in weights}
    renamed = mobilenet_v2_torch.RENAMED_MODULES
    read = torch_weights.read("net.safetensors", wanted, renamed)
    passed_over = {f"{prefix}classifier.{name}" for name in ("weight", "bias")}
    assert read.keys() == wanted.keys() | passed_over
    for name in weights:
        assert list(read[f"{net}/{name}".replace(".", "/")].shape) == SHAPES[net][name], name


def test_names_are_those_of_pytorch():
    names = {
        "net/bn1/gamma": "bn1.weight",
        "net/bn1/beta": "bn1.bias",
        "net/bn1/moving_mean": "bn1.running_mean",
        "net/bn1/moving_variance": "bn1.running_var",
        "net/features/1/conv/0/0/depthwise_weights": "features.1.conv.0.0.weight",
        "net/fc/biases": "fc.bias",
    }
    assert {name: torch_weights.torch_name(name) for name in names} == names


def test_numbers_of_16_bits_are_taken(tmp_path):
    path = tmp_path / "half.safetensors"
    tensors = {"layer1.0.conv.weight": KERNEL, "layer1.0.conv.bias": BIAS}
    save_file({name: each.astype(np.float16) for name, each in tensors.items()}, path)
    wanted = variables()
    load(path, wanted)
    assert wanted["net/layer1/0/conv/biases"].numpy().tolist() == BIAS.tolist()


def transformer():
    """The variables of a vision transformer for 8x4 patches of which 2x1 are in an image."""
    shapes = {"cls_token": (1, 1, 3), "class_position": (3,), "pos_embed": (4, 2, 3)}
    return {
        f"vit/{name}": keras.Variable(np.zeros(shape, np.float32), name=name)
        for name, shape in shapes.items()
    }


def positions(count):
    return np.random.default_rng(0).normal(size=(1, count, 3)).astype(np.float32)


TOKEN = np.ones((1, 1, 3), np.float32)


@pytest.mark.parametrize("prefix", ["", "base.", "backbone.", "teacher.backbone.", "module."])
def test_positions_of_this_size_and_of_a_square_are_taken(tmp_path, prefix):
    path = tmp_path / "vit.safetensors"
    for grid in ((4, 2), (5, 5)):
        stored = positions(1 + grid[0] * grid[1])
        save_file({f"{prefix}cls_token": TOKEN, f"{prefix}pos_embed": stored}, path)
        wanted = transformer()
        told = load(path, wanted)
        assert (sorted(told.taken), told.passed_over, told.missing) == (sorted(wanted), [], [])
        np.testing.assert_array_equal(wanted["vit/class_position"], stored[0, 0])
        expected = readers.resize(stored[0, 1:].reshape(*grid, 3), (4, 2))
        np.testing.assert_array_equal(wanted["vit/pos_embed"], expected)


def test_the_teacher_is_taken_rather_than_the_student(tmp_path):
    path = tmp_path / "dino.safetensors"
    teacher, student = positions(9), 2 * positions(9)
    save_file(
        {
            "student.backbone.cls_token": TOKEN,
            "student.backbone.pos_embed": student,
            "teacher.module.backbone.cls_token": TOKEN,
            "teacher.module.backbone.pos_embed": teacher,
        },
        path,
    )
    wanted = transformer()
    told = load(path, wanted)
    np.testing.assert_array_equal(wanted["vit/class_position"], teacher[0, 0])
    assert told.passed_over == ["student.backbone.cls_token", "student.backbone.pos_embed"]


@pytest.mark.parametrize("token", ["reg_token", "register_tokens", "dist_token"])
def test_other_tokens_are_told(tmp_path, token):
    path = tmp_path / "vit.safetensors"
    tensors = {"cls_token": TOKEN, "pos_embed": positions(9), token: TOKEN}
    save_file({f"backbone.{name}": tensor for name, tensor in tensors.items()}, path)
    refuse(lambda: load(path, transformer()), f"it holds backbone.{token}. .*trained without")


def test_positions_without_one_for_the_class_token_are_told(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file({"cls_token": TOKEN, "pos_embed": positions(16)}, path)
    refuse(lambda: load(path, transformer()), "16 position embeddings.*nor the 4x2 of this net")


def header(description, data=b""):
    text = description if isinstance(description, bytes) else json.dumps(description).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape, offsets, dtype="F32"):
    return {"layer1.0.conv.bias": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HOSTILE = {
    "a header of a gigabyte": struct.pack("<Q", 2**30) + b"{}",
    "a header beyond all": struct.pack("<Q", 2**63) + b"{}",
    "no header": b"\x05",
    "no JSON": header(b"{{{{"),
    "offsets beyond the end": header(tensor([4], [0, 16]), b"\0" * 8),
    "offsets that do not fit the shape": header(tensor([4], [0, 8]), b"\0" * 8),
    "offsets backwards": header(tensor([4], [16, 0]), b"\0" * 16),
    "a shape beyond all": header(tensor([2**62, 2**62], [0, 16]), b"\0" * 16),
    "an unknown kind of numbers": header(tensor([4], [0, 16], "Q7"), b"\0" * 16),
    "nothing in it": header({}),
    "deep JSON": header(b'{"a":' * 10_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, name):
    path = tmp_path / "net.safetensors"
    path.write_bytes(HOSTILE[name])
    refuse(lambda: load(path, variables()), "net.safetensors")


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"layer1.0.conv.weight": KERNEL}, path)
    path.write_bytes(path.read_bytes()[:-1])
    refuse(lambda: load(path, variables()), "cannot read the weights file .*download it again")


def test_a_pickle_with_the_wrong_suffix_runs_nothing(tmp_path):
    class Program:
        def __reduce__(self):
            return (tmp_path / "was_run").touch, ()

    path = tmp_path / "net.safetensors"
    path.write_bytes(pickle.dumps(Program()))
    refuse(lambda: load(path, variables()), "a pickle.*save_file.*net.safetensors")
    assert not (tmp_path / "was_run").exists()


def test_weights_of_another_net_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"layer1.0.conv.weight": KERNEL[:2]}, path)
    refuse(lambda: load(path, variables()), "does not fit this net")
    save_file({"stages.0.weight": KERNEL}, path)
    refuse(lambda: load(path, variables()), "nothing in .* fits")


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    path = tmp_path / "net.safetensors"
    path.write_bytes(header({}))
    refuse(lambda: load(path, variables()), "takes the package safetensors.*pip install")
