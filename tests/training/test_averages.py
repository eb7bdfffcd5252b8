import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import common
import embed
import export
import train
from benchmarks import kill_and_resume
from evaluation import embeddings_file
from experiment import flags
from experiment.flags import Settings
from network import checkpoint_paths, checkpoints, embedder
from network.embedder import Embedder
from runtime import files, terminal
from training import averages
from training.state import State

ITERATIONS, DECAY = 6, 0.4
SUFFIX = "/ExponentialMovingAverage"


def run(*argv):
    train.main(train.parse_args(list(argv)))


def all_flags(dataset, root, *more):
    return [
        f"--experiment_root={root}",
        f"--train_set={dataset.csv}",
        f"--image_root={dataset.root}",
        "--model_name=lunet_narrow",
        "--head_name=fc1024_normalize",
        "--embedding_dim=8",
        "--batch_p=3",
        "--batch_k=2",
        "--net_input_height=24",
        "--net_input_width=16",
        "--learning_rate=0.01",
        f"--train_iterations={ITERATIONS}",
        "--decay_start_iteration=-1",
        "--checkpoint_frequency=1",
        "--detailed_logs",
        "--image_frequency=0",
        "--seed=3",
        *more,
    ]


@pytest.fixture(scope="module")
def averaged(dataset, tmp_path_factory):
    """A training with --ema, and every checkpoint of it."""
    root = tmp_path_factory.mktemp("experiments") / "averaged"
    run(*all_flags(dataset, root, f"--ema={DECAY}"))
    return root


@pytest.fixture(scope="module")
def without(dataset, tmp_path_factory):
    """The same training without --ema."""
    root = tmp_path_factory.mktemp("experiments") / "without"
    run(*all_flags(dataset, root))
    return root


def tensors(root, iteration):
    reader = tf.train.load_checkpoint(str(root / f"checkpoint-{iteration}"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def split(values):
    """The averages and the rest, each by the names of the rest."""
    means = {name.removesuffix(SUFFIX): x for name, x in values.items() if name.endswith(SUFFIX)}
    return means, {name: x for name, x in values.items() if not name.endswith(SUFFIX)}


def test_the_averages_are_those_of_a_plain_loop(averaged):
    mean, first = split(tensors(averaged, 0))
    for name in mean:
        np.testing.assert_array_equal(mean[name], first[name], err_msg=name)
    # The decay rises to that of the flag: 2/11, 3/12, 4/13, 5/14, 0.4, 0.4.
    for n in range(1, ITERATIONS + 1):
        decay = min(DECAY, (1 + n) / (10 + n))
        got, weights = split(tensors(averaged, n))
        for name in mean:
            mean[name] = decay * mean[name].astype(np.float64) + (1 - decay) * weights[name]
            np.testing.assert_allclose(got[name], mean[name], rtol=2e-6, atol=1e-8, err_msg=name)
    moved = [name for name in mean if (got[name] != weights[name]).any()]
    assert any(name.endswith("moving_variance") for name in moved)
    assert any(name.endswith("weights") for name in moved)


def test_weights_and_statistics_are_averaged_and_no_state_of_the_optimizer(averaged):
    means, rest = split(tensors(averaged, ITERATIONS))
    slots = {name for name in rest if name.endswith(("/Adam", "/Adam_1"))}
    assert means.keys() == rest.keys() - slots - {"global_step"}


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_the_shares_of_iterations_add_up_and_the_first_are_soon_forgotten(decay):
    decays = [float(averages.decay_at(decay, tf.constant(n))) for n in range(1, 20001)]
    assert max(decays) <= np.float32(decay)
    assert decays == sorted(decays)
    assert decays[-1] == np.float32(decay)
    shares = np.cumprod([1.0, *decays[:0:-1]])[::-1] * (1 - np.array(decays))
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    # A constant 0.999 would leave the initial weights 0.37 of the average then.
    assert np.prod(decays[:1000]) < 1e-7


def test_losses_and_weights_are_the_same_bits_without_it(averaged, without):
    assert all(not name.endswith(SUFFIX) for name in tensors(without, ITERATIONS))
    _, expected = split(tensors(averaged, ITERATIONS))
    got = tensors(without, ITERATIONS)
    assert got.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    for name in ("losses", "embeddings"):
        assert (averaged / name).read_bytes() == (without / name).read_bytes()


def cut(root, copy, iteration):
    """The experiment as it was at a checkpoint."""
    shutil.copytree(root, copy)
    for later in range(iteration + 1, ITERATIONS + 1):
        for file in copy.glob(f"checkpoint-{later}.*"):
            file.unlink()
    return copy


def test_a_resumed_training_has_the_same_averages(averaged, tmp_path):
    root = cut(averaged, tmp_path / "exp", 2)
    run(f"--experiment_root={root}", "--resume")
    assert kill_and_resume.differences(averaged, root) == []


def test_an_older_experiment_begins_to_average_where_it_is(without, tmp_path):
    root = cut(without, tmp_path / "exp", 4)
    stored = json.loads((root / "args.json").read_text())
    files.write_json(root / "args.json", stored | {"ema": DECAY})
    run(f"--experiment_root={root}", "--resume")
    got, weights = split(tensors(root, 5))
    _, before = split(tensors(without, 4))
    for name in got:
        expected = DECAY * before[name] + (1 - DECAY) * weights[name]
        np.testing.assert_allclose(got[name], expected, rtol=2e-6, atol=1e-8, err_msg=name)
    del stored["ema"]  # as a version before this one wrote it
    files.write_json(root / "args.json", stored)
    assert flags.default("ema") == 0
    assert Embedder(root, "checkpoint-4").weights is None


# ------------------------------------------------------------------------- what takes them


@pytest.fixture(scope="module")
def networks(averaged):
    """Networks with the averages and with the raw weights, filled by hand."""
    means, raw = split(tensors(averaged, ITERATIONS))
    filled = {}
    for kind, values in {"averaged": means, "raw": raw}.items():
        architecture = Settings(experiment_root=str(averaged), **_sizes())
        _, filled[kind] = embedder.load(averaged, architecture, "checkpoint-0", weights="raw")
        for name, variable in checkpoints.named_variables(filled[kind]).items():
            variable.assign(values[name])
    return filled


def _sizes():
    return {
        "model_name": "lunet_narrow",
        "head_name": "fc1024_normalize",
        "embedding_dim": 8,
        "net_input_height": 24,
        "net_input_width": 16,
    }


def read_images(dataset):
    from PIL import Image

    return np.stack([np.asarray(Image.open(dataset.root / fid)) for fid in dataset.fids])


@pytest.mark.parametrize(
    "given, taken", [(None, "averaged"), ("averaged", "averaged"), ("raw", "raw")]
)
def test_embed_takes_the_average_unless_told_otherwise(
    given, taken, averaged, networks, dataset, tmp_path, capfd
):
    argv = [f"--experiment_root={averaged}", f"--dataset={dataset.csv}"]
    argv += [f"--filename={tmp_path / 'out.h5'}", *([f"--weights={given}"] if given else [])]
    embed.main(embed.parse_args(argv))
    told = capfd.readouterr().err
    assert f"checkpoint-{ITERATIONS} ({taken} weights)." in told
    assert "no place for" not in told
    origin = embeddings_file.origin(tmp_path / "out.h5")
    assert origin.weights == taken
    with embeddings_file.h5py.File(tmp_path / "out.h5") as file:
        embs = file["emb"][()]
    images = read_images(dataset).astype(np.float32)
    expected = {kind: network(images, training=False)["emb"] for kind, network in networks.items()}
    np.testing.assert_allclose(embs, expected[taken], rtol=1e-4, atol=1e-6)
    assert np.abs(expected["raw"] - expected["averaged"]).max() > 1e-3
    other = {"averaged": "raw", "raw": "averaged"}[taken]
    with pytest.raises(common.UserError, match=f"lost: weights {taken}, not {other}"):
        embed.main(embed.parse_args([*argv, f"--weights={other}"]))


def test_an_exported_network_has_the_averages(averaged, networks, dataset, tmp_path, capfd):
    argv = [f"--experiment_root={averaged}", f"--directory={tmp_path / 'out'}"]
    export.main(export.parse_args(argv))
    assert "(averaged weights)" in capfd.readouterr().err
    assert export.parse_args([*argv, "--weights=raw"]).weights == "raw"
    exported = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    images = read_images(dataset)
    got = exported.signatures["images"](images=tf.constant(images))["emb"]
    expected = networks["averaged"](images.astype(np.float32), training=False)["emb"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_averages_that_are_not_there_cannot_be_taken(without, dataset, capfd):
    terminal.setup_logging("test")
    for made in (None, "raw"):
        assert Embedder(without, weights=made).weights is None
    assert "weights" not in capfd.readouterr().err
    message = "--weights averaged: .*checkpoint-6 holds none, .*no --ema.*raw"
    with pytest.raises(common.UserError, match=message):
        Embedder(without, weights="averaged")
    argv = [f"--experiment_root={without}", f"--dataset={dataset.csv}", "--weights=averaged"]
    with pytest.raises(common.UserError, match=message):
        embed.main(embed.parse_args(argv))


def test_whether_there_are_averages_is_read_as_tensorflow_reads_it(averaged, without, tmp_path):
    for root in (averaged, without):
        for iteration in range(ITERATIONS + 1):
            has = any(name.endswith(SUFFIX) for name in tensors(root, iteration))
            assert checkpoint_paths.has_averages(root / f"checkpoint-{iteration}") == has
    # In a table of many blocks, too.
    many = {f"layer{i}/{name}": tf.zeros(1) for i in range(3000) for name in ("a", "b")}
    assert not checkpoint_paths.has_averages(checkpoints.save(tmp_path, 1, many))
    one = {"layer2999/b" + SUFFIX: tf.zeros(1)}
    assert checkpoint_paths.has_averages(checkpoints.save(tmp_path, 2, many | one))


def settings(root, **changes):
    return Settings(experiment_root=str(root), seed=3, **_sizes(), **changes)


def test_the_network_as_embedded_is_in_float32_and_has_the_averages(tmp_path):
    strategy = tf.distribute.get_strategy()
    plain = State(settings(tmp_path), np.ones(4), strategy)
    assert plain.embedded() is plain.network
    averaging = State(settings(tmp_path, ema=0.9, precision="mixed_bfloat16"), np.ones(4), strategy)
    assert averaging.embedded() is averaging.average
    assert averaging.average is not averaging.network

    half = State(settings(tmp_path, precision="mixed_bfloat16"), np.ones(4), strategy)
    network = half.embedded()
    images = np.random.default_rng(0).uniform(0, 255, (2, 24, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        network(images, training=False)["emb"], plain.network(images, training=False)["emb"]
    )
    for variable in half.network.trainable_variables:
        variable.assign(0.9 * variable)
    assert half.embedded() is network
    for mine, trained in zip(network.variables, half.network.variables, strict=True):
        np.testing.assert_array_equal(mine, trained)
