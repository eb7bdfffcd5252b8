"""Vision transformers, against timm's own numbers and from training to export."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from golden.nets import deviation
from golden.torch_fill import fill
from safetensors.numpy import save_file
from weights import refuse

import common
import export
import train
from benchmarks import kill_and_resume
from nets import _vit
from network import checkpoint_paths, checkpoints, model, pretrained, readers
from network.embedder import Embedder
from training import rates

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(GOLDEN / "torch_nets.npz")
SHAPES = json.loads((GOLDEN / "torch_nets_shapes.json").read_text())
# name: what its features are, by size of the images
NETS = {
    "vit_small_patch16": {"64x32": "mean_patches", "128x64": "class_token"},
    "vit_base_patch16": {"64x32": "class_token"},
    "vit_small_patch14_dinov2": {"56x28": "class_token", "112x56": "mean_patches"},
    "vit_base_patch14_dinov2": {"56x28": "mean_patches"},
}
TINY = _vit.Shape(patch=4, channels=64, depth=2, layer_scale=0.1)


def size_of(text):
    height, width = map(int, text.split("x"))
    return height, width


def filled(shapes):
    return {name: fill(name, shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", NETS)
def test_features_are_those_of_timm(name, tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = filled(SHAPES[name]) | {"head.weight": np.zeros((2, 3), np.float32)}
    save_file({f"teacher.backbone.{key}": each for key, each in tensors.items()}, path)
    del tensors
    for size, features in NETS[name].items():
        options = {"class_token": True} if features == "class_token" else {}
        net = common.load_plugin("nets", name).build((*size_of(size), 3), **options)
        variables = checkpoints.named_variables(net)
        told = pretrained.load_net(path, name, variables)
        assert told.missing == [] and told.passed_over == ["teacher.backbone.head.weight"]
        assert len(told.taken) == len(variables)
        images = ARRAYS[f"images/{size}"][:2].astype(np.float32)
        expected = ARRAYS[f"{name}/{size}/{features}"]
        assert deviation(net(images, training=False), expected) < 1e-5
        first = variables[f"{name}/class_position"].numpy()[None, :8]
        grid = variables[f"{name}/pos_embed"].numpy()[..., :8].reshape(-1, 8)
        positions = ARRAYS[f"{name}/{size}/pos_embed"]
        np.testing.assert_allclose(np.concatenate([first, grid]), positions, atol=1e-6)
        keras.backend.clear_session()


def tiny(input_shape, **options):
    return _vit.build(input_shape, "vit", TINY, **options)


@pytest.mark.parametrize(
    "size, nearest", [((65, 32), "64x32"), ((8, 33), "16x32"), ((40, 40), "32x32")]
)
def test_images_that_are_no_patches_are_told(size, nearest):
    build = common.load_plugin("nets", "vit_small_patch16").build
    given = f"Received: {size[0]}x{size[1]}"
    refuse(lambda: build((*size, 3)), f"multiples of 16, .*{given}. .*such as {nearest} ")
    refuse(lambda: build((None, None, 3)), "fixed input size")


def test_class_token_and_mean_of_the_patches_share_their_weights():
    mean, token = tiny((12, 8, 3)), tiny((12, 8, 3), class_token=True)
    names = [list(checkpoints.named_variables(net)) for net in (mean, token)]
    assert names[0] == names[1]
    token.set_weights(mean.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, 12, 8, 3)).astype(np.float32)
    tokens = keras.Model(mean.input, mean.get_layer("vit.norm").output)(images).numpy()
    assert tokens.shape == (2, 7, 64)
    np.testing.assert_allclose(mean(images), tokens[:, 1:].mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(token(images), tokens[:, 0], rtol=1e-5, atol=1e-6)


def test_an_experiment_of_another_size_gives_its_weights(tmp_path):
    with common.plugin("nets", "lunet_narrow", SimpleNamespace(build=tiny)):
        small, large = (
            model.build("lunet_narrow", "direct", 8, (*size, 3)) for size in ((12, 8), (16, 12))
        )
    state = checkpoints.named_variables(small)
    average = {checkpoint_paths.average_name(name): each for name, each in state.items()}
    path = checkpoints.save(tmp_path, 1, state | average)
    expected = readers.resize(state["vit/pos_embed"].numpy(), (4, 3))
    ours = checkpoints.named_variables(large)
    for load in (
        lambda: pretrained.load_net(path, "vit", checkpoints.named_variables(model.net_of(large))),
        lambda: checkpoints.restore(path, ours),
        lambda: checkpoints.restore(path, checkpoints.averaged(ours)),
    ):
        ours["vit/pos_embed"].assign(np.zeros((4, 3, 64)))
        load()
        np.testing.assert_array_equal(ours["vit/pos_embed"], expected)


# ------------------------------------------------------------------------- layers


def rates_of(name):
    """The exponents of --layer_decay, by names without the net's own."""
    module = common.load_plugin("nets", name)
    names = list(checkpoints.named_variables(module.build((32, 32, 3))))
    found = rates.decayed(names, module.LAYERS, 0.5)
    return {key.partition("/")[2]: -np.log2(factor) for key, factor in found.items()}


def test_rates_fall_from_the_last_norm_to_the_stem():
    found = rates_of("vit_small_patch16")
    stem = ["cls_token", "class_position", "pos_embed", "patch_embed/proj/weights"]
    expected = dict.fromkeys(stem, 13) | {"blocks/0/norm1/gamma": 12}
    expected |= {"blocks/11/mlp/fc2/biases": 1, "norm/gamma": 0}
    assert {name: found[name] for name in expected} == expected

    found = rates_of("convnext_tiny_torch")
    expected = {"stem/0/weights": 19, "stages/0/blocks/0/layer_scale": 18, "head/norm/gamma": 0}
    # As in timm, a stage's downsampling has the rate of its first block.
    expected |= {"stages/1/downsample/0/gamma": 15, "stages/1/blocks/0/conv_dw/biases": 15}
    assert {name: found[name] for name in expected} == expected

    found = rates_of("resnet50_torch")
    expected = {"conv1/weights": 5, "layer1/0/downsample/0/weights": 4, "layer4/2/bn3/beta": 1}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("name", NETS)
def test_each_transformer_says_what_its_layers_are(name):
    assert common.load_plugin("nets", name).LAYERS == r"blocks/\d+"


def test_a_shallow_one_trains_resumes_embeds_and_is_exported(dataset, tmp_path):
    def build(input_shape, class_token=False, drop_path=0.0):
        shape = _vit.Shape(patch=8, channels=64, depth=2, layer_scale=0.5)
        return _vit.build(input_shape, "vit", shape, class_token, drop_path)

    whole, part, exported = (tmp_path / name for name in ("whole", "part", "exported"))
    flags = f"--train_set={dataset.csv} --image_root={dataset.root} --net_input_height=24 --net_input_width=16"
    flags += " --model_name=vit_small_patch16 --pooling=token --drop_path=0.5 --head_name=direct --embedding_dim=8"
    flags += " --batch_p=3 --batch_k=2 --seed=1 --decay_start_iteration=-1 --checkpoint_frequency=1 --detailed_logs"
    images = np.random.default_rng(0).uniform(0, 255, (3, 24, 16, 3)).astype(np.float32)
    with common.plugin("nets", "vit_small_patch16", SimpleNamespace(build=build)):
        argv = [f"--experiment_root={whole}", *flags.split(), "--train_iterations=2"]
        train.main(train.parse_args(argv))
        shutil.copytree(whole, part, ignore=shutil.ignore_patterns("checkpoint-2.*"))
        train.main(train.parse_args([f"--experiment_root={part}", "--resume"]))
        assert kill_and_resume.differences(whole, part) == []
        emb = Embedder(whole)(images)
        assert np.ptp(emb, axis=0).max() > 1e-3
        argv = [f"--experiment_root={whole}", f"--directory={exported}", "--formats"]
        export.main(export.parse_args([*argv, "onnx", "litert"]))
    runner = Interpreter(str(exported / "model.tflite")).get_signature_runner()
    np.testing.assert_allclose(runner(images=images)["emb"], emb, rtol=1e-4, atol=1e-5)
    assert b"Flex" not in (exported / "model.tflite").read_bytes()
    session = onnxruntime.InferenceSession(
        exported / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (of_onnx,) = session.run(["emb"], {"images": images})
    np.testing.assert_allclose(of_onnx, emb, rtol=1e-4, atol=1e-5)
