"""Two replicas do what one device does. Each strategy runs in processes of its own; see
replicas.py.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from paths import TESTS

import common
import train
from benchmarks import kill_and_resume
from experiment import detailed_logs, metrics_log
from network import checkpoints
from runtime import cluster, devices
from runtime.cluster import Cluster, find_cluster

SCRIPT = str(TESTS / "replicas.py")
ITERATIONS, LONG, P, K = 10, 40, 4, 3


def flags(dataset, root, *more):
    return [
        f"--experiment_root={root}",
        f"--train_set={dataset.csv}",
        f"--image_root={dataset.root}",
        "--model_name=lunet_narrow",
        "--head_name=fc1024_normalize",
        "--embedding_dim=8",
        f"--batch_p={P}",
        f"--batch_k={K}",
        "--net_input_height=24",
        "--net_input_width=16",
        "--pre_crop_height=28",
        "--pre_crop_width=18",
        "--crop_augment",
        "--flip_augment",
        "--learning_rate=1e-4",
        f"--train_iterations={ITERATIONS}",
        "--decay_start_iteration=-1",
        "--checkpoint_frequency=5",
        "--detailed_logs",
        "--seed=1",
        "--ema=0.9",
        *more,
    ]


def plain(dataset, root, *more):
    """As flags, for a net without batch norm, and with validations."""
    validation = [f"--val_query={dataset.csv}", f"--val_gallery={dataset.csv}"]
    validation += ["--val_excluder=diagonal", "--val_frequency=5"]
    return ["plain", *flags(dataset, root, "--head_name=direct_normalize", *validation, *more)]


def tricks(dataset, root):
    """As plain, with what is trained beside the network, draws of the loss and a clipped gradient."""
    more = "--head_name=bnneck --embedding_dim=16 --id_loss_weight=1 --center_loss_weight=0.1 --loss=batch_sample"
    more += (
        " --optimizer=sgd --learning_rate=1e-2 --momentum=0.9 --clip_norm=0.5 --random_erasing=0.5"
    )
    return plain(dataset, root, *more.split())


def shuffled(dataset, root):
    """As plain, on batches in which pids come as they may."""
    more = ["--sampler=shuffle", "--batch_size=6", "--train_iterations=2", "--id_loss_weight=1"]
    defaults = ["--batch_p=32", "--batch_k=4"]
    return plain(dataset, root, *more, *defaults)


def proxies(dataset, root):
    """As plain, with a loss of identities that takes the whole batch together, and a memory."""
    more = "--id_loss=proxy_anchor --id_loss_weight=0.1 --loss=multi_similarity"
    more += " --memory_batches=2 --memory_start=2 --train_iterations=4"
    return plain(dataset, root, *more.split())


def cameras(dataset, root, *more):
    """A transformer that is told cameras, also in its validations."""
    net = (
        "--model_name=vit_small_patch16 --cameras=market1501 --camera_embeddings=3 --drop_path=0.2"
    )
    net += " --optimizer=sgd --learning_rate=1e-2 --train_iterations=5"
    return ["tiny", *plain(dataset, root, *net.split(), *more)[1:]]


def start(strategy, *trainings, **environment):
    return subprocess.Popen(
        [sys.executable, SCRIPT, strategy, *map(json.dumps, trainings)],
        cwd=common.HERE,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_workers(*trainings):
    """Two processes that are one job."""
    with socket.socket() as a, socket.socket() as b:
        for free in (a, b):
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in (a, b)]
    return [
        start(
            "multi_worker",
            *trainings,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index in (0, 1)
    ]


def wait(*processes, code=0):
    """Returns: what they wrote to stderr; all have to end with the exit code."""
    written = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(
        written
    )[-5000:]
    return written


def wait_for_iteration(root, iteration, process):
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        if max(kill_and_resume.logged_iterations(root), default=0) >= iteration:
            return
        time.sleep(0.02)
    raise AssertionError(f"no iteration {iteration}: {process.communicate()[1][-3000:]}")


def half_way(root, copy):
    """The experiment as it was at its checkpoint-5."""
    shutil.copytree(root, copy)
    for file in copy.glob("checkpoint-10.*"):
        file.unlink()
    return copy


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """The folder of all experiments: <net>-<strategy>."""
    folder = tmp_path_factory.mktemp("distributed")
    wait(
        start(
            "one",
            plain(dataset, folder / "plain-one"),
            flags(dataset, folder / "norm-one"),
            tricks(dataset, folder / "tricks-one"),
            shuffled(dataset, folder / "shuffled-one"),
            proxies(dataset, folder / "proxies-one"),
            cameras(dataset, folder / "cameras-one"),
            flags(dataset, folder / "chunks-one", f"--chunk={P * K // 2}", "--train_iterations=1"),
        )
    )
    half_way(folder / "norm-one", folder / "norm-one-mirrored")
    wait(
        start(
            "mirrored",
            plain(dataset, folder / "plain-mirrored"),
            flags(dataset, folder / "norm-mirrored"),
            tricks(dataset, folder / "tricks-mirrored"),
            shuffled(dataset, folder / "shuffled-mirrored"),
            proxies(dataset, folder / "proxies-mirrored"),
            cameras(dataset, folder / "cameras-mirrored", "--chunk=3"),
            plain(dataset, folder / "local-mirrored", "--mining=local", "--train_iterations=2"),
            plain(dataset, folder / "chunks-mirrored", "--chunk=3"),
            flags(dataset, folder / "remat-mirrored", "--remat", "--train_iterations=5"),
            flags(
                dataset, folder / "apart-mirrored", "--no_sync_batch_norm", "--train_iterations=1"
            ),
            [f"--experiment_root={folder / 'norm-one-mirrored'}", "--resume"],
        )
    )
    wait(
        *start_workers(
            plain(dataset, folder / "plain-multi_worker"),
            plain(dataset, folder / "chunks-multi_worker", "--chunk=3"),
            shuffled(dataset, folder / "shuffled-multi_worker"),
            proxies(dataset, folder / "proxies-multi_worker"),
            flags(dataset, folder / "norm-multi_worker", f"--train_iterations={LONG}"),
        )
    )
    return folder


def values(root, iteration=ITERATIONS):
    """Losses [iterations, B] and weights by name, moments of Adam left out."""
    reader = tf.train.load_checkpoint(str(root / f"checkpoint-{iteration}"))
    weights = [
        name
        for name in reader.get_variable_to_shape_map()
        if not re.search("Adam|momentum|global_step", name)
    ]
    return detailed_logs.read(root / "losses")[:iteration], {
        name: reader.get_tensor(name) for name in weights
    }


def layer_of(name):
    """A layer's averages (--ema) are compared together with its weights."""
    return name.removesuffix("/ExponentialMovingAverage").rpartition("/")[0]


def assert_equal_but_for(tolerance, root, expected_root, iteration=ITERATIONS):
    losses, weights = values(root, iteration)
    expected_losses, expected_weights = values(expected_root, iteration)
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    assert weights.keys() == expected_weights.keys()
    for layer in {layer_of(name) for name in weights}:
        of_layer = sorted(name for name in weights if layer_of(name) == layer)
        got, expected = (
            np.concatenate([x[name].ravel() for name in of_layer])
            for x in (weights, expected_weights)
        )
        difference = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        assert difference <= tolerance, f"{layer}: {difference}"


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
@pytest.mark.parametrize("net, tolerance", [("plain", 1e-6), ("norm", 1e-4)])
def test_two_replicas_train_as_one_device_does(trained, net, tolerance, strategy):
    assert_equal_but_for(tolerance, trained / f"{net}-{strategy}", trained / f"{net}-one")


def test_classifier_centers_draws_and_clipping_are_those_of_one_device(trained):
    assert_equal_but_for(1e-4, trained / "tricks-mirrored", trained / "tricks-one")
    assert {"classifier/weights", "centers/centers"} < values(trained / "tricks-one")[1].keys()


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_shuffled_batches_are_those_of_one_device(trained, strategy):
    roots = trained / f"shuffled-{strategy}", trained / "shuffled-one"
    assert_equal_but_for(1e-6, *roots, iteration=2)
    fids, expected_fids = (detailed_logs.read(root / "fids") for root in roots)
    np.testing.assert_array_equal(fids, expected_fids)
    assert kill_and_resume.logged_iterations(roots[0]) == kill_and_resume.logged_iterations(
        roots[1]
    )


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_proxies_and_a_memory_are_those_of_one_device(trained, strategy):
    roots = trained / f"proxies-{strategy}", trained / "proxies-one"
    assert_equal_but_for(1e-5, *roots, iteration=4)
    labels, expected_labels = (values(root, 4)[1]["memory/labels"] for root in roots)
    assert labels.shape == (2 * P * K,) and labels.min() >= 0
    np.testing.assert_array_equal(labels, expected_labels)


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_chunks_on_two_replicas_train_as_one_piece_on_one_device_does(trained, strategy):
    assert_equal_but_for(1e-6, trained / f"chunks-{strategy}", trained / "plain-one")


def test_two_replicas_tell_each_image_its_camera(trained):
    roots = trained / "cameras-mirrored", trained / "cameras-one"
    assert_equal_but_for(1e-5, *roots, iteration=5)
    found = [line for root in roots for line in metrics_log.read(root) if "validation/mAP" in line]
    (ours, theirs) = ([line[f"validation/{name}"] for name in ("mAP", "mINP")] for line in found)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    name = "vit/sie/camera_embeddings"
    begun, trained_by_then = (values(roots[1], iteration)[1][name] for iteration in (0, 5))
    assert begun.shape == (3, 64) and (np.abs(trained_by_then - begun).max(axis=1) > 1e-6).all()


def test_activations_that_are_computed_again_change_nothing_on_two_replicas(trained):
    roots = trained / "remat-mirrored", trained / "norm-mirrored"
    assert_equal_but_for(1e-6, *roots, iteration=5)


def test_each_chunk_is_normalized_as_a_replica_of_its_own_that_is_not_synchronized(trained):
    roots = trained / "chunks-one", trained / "apart-mirrored"
    losses, expected_losses = (detailed_logs.read(root / "losses") for root in roots)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    readers = [tf.train.load_checkpoint(str(root / "checkpoint-1")) for root in roots]
    names = [name for name in readers[0].get_variable_to_shape_map() if "/moving_" in name]
    for name in names:
        ours, theirs = (reader.get_tensor(name) for reader in readers)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_what_is_told_is_of_the_whole_batch(trained, strategy):
    one, two = (trained / f"plain-{name}" for name in ("one", strategy))
    assert kill_and_resume.logged_iterations(one) == kill_and_resume.logged_iterations(two)
    np.testing.assert_array_equal(
        detailed_logs.read(one / "fids"), detailed_logs.read(two / "fids")
    )
    np.testing.assert_allclose(
        detailed_logs.read(one / "embeddings"),
        detailed_logs.read(two / "embeddings"),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("strategy", ["mirrored", "multi_worker"])
def test_two_replicas_find_in_a_validation_what_one_device_finds(trained, strategy):
    found = []
    for root in (trained / "plain-one", trained / f"plain-{strategy}"):
        lines = [line for line in metrics_log.read(root) if "validation/mAP" in line]
        assert [line["iteration"] for line in lines] == [5, ITERATIONS]
        found.append([list(line.values()) for line in lines])
        assert all(0.1 < line["validation/mAP"] < 0.99 for line in lines)
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    pointers = [trained / name / "checkpoint-best" for name in ("plain-one", f"plain-{strategy}")]
    assert pointers[0].read_text() == pointers[1].read_text()


def test_local_mining_takes_triplets_of_one_replica_only(trained):
    root = trained / "local-mirrored"
    embs, losses, fids = (
        detailed_logs.read(root / name) for name in ("embeddings", "losses", "fids")
    )
    for emb, got, batch in zip(embs.astype(np.float64), losses, fids, strict=True):
        pids, expected = np.array([fid.decode()[:4] for fid in batch]), []
        for half in (slice(0, P * K // 2), slice(P * K // 2, P * K)):
            dists = np.sqrt(((emb[half, None] - emb[None, half]) ** 2).sum(-1) + 1e-12)
            same = pids[half, None] == pids[None, half]
            positive = np.where(same & ~np.eye(len(same), dtype=bool), dists, 0).max(1)
            expected.append(np.log1p(np.exp(positive - np.where(same, np.inf, dists).min(1))))
        np.testing.assert_allclose(got, np.concatenate(expected), rtol=1e-4)
    whole = detailed_logs.read(trained / "plain-one" / "losses")
    np.testing.assert_array_less(
        losses[0] - 1e-6, whole[0]
    )  # negatives of the own half are no closer
    assert (losses[0] < whole[0] - 1e-6).any()


def test_statistics_of_each_replica_alone_differ(trained):
    apart, together = (
        detailed_logs.read(trained / f"{net}-mirrored" / "losses")[0] for net in ("apart", "norm")
    )
    assert np.abs(apart - together).max() > 1e-3


def test_a_checkpoint_of_one_device_goes_on_on_two_and_the_other_way_round(trained, tmp_path):
    assert_equal_but_for(1e-4, trained / "norm-one-mirrored", trained / "norm-one")
    root = half_way(trained / "norm-mirrored", tmp_path / "exp")
    train.main(train.parse_args([f"--experiment_root={root}", "--resume", "--strategy=one"]))
    assert_equal_but_for(1e-4, root, trained / "norm-one")
    assert json.loads((root / "args.json").read_text())["strategy"] == "one"


def test_workers_that_are_stopped_and_killed_end_with_the_bits_of_those_that_were_left_alone(
    dataset, trained, tmp_path
):
    root = tmp_path / "exp"
    whole = flags(dataset, root, f"--train_iterations={LONG}")
    resume = [f"--experiment_root={root}", "--resume"]

    # Told to one that is not the chief, which saves.
    workers = start_workers(whole)
    wait_for_iteration(root, 3, workers[0])
    workers[1].send_signal(signal.SIGTERM)
    written = wait(*workers, code=128 + signal.SIGTERM)
    stopped = int(checkpoints.newest(root).name.removeprefix("checkpoint-"))
    assert 3 < stopped < LONG, "the signal came too late"
    assert f"Interrupted after iteration {stopped}" in written[0] and "iter:" not in written[1]

    workers = start_workers(resume)
    wait_for_iteration(root, stopped + 2, workers[0])
    workers[1].kill()
    killed = time.monotonic()
    _, told = workers[0].communicate(timeout=60)
    workers[1].communicate()
    assert workers[0].returncode == 1 and time.monotonic() - killed < 60
    last_line = told.splitlines()[-1]
    assert "another worker of the job is gone" in last_line and "--resume" in last_line, told[
        -3000:
    ]

    wait(*start_workers(resume))
    assert kill_and_resume.differences(trained / "norm-multi_worker", root) == []


# ------------------------------------------------------------------------- without TensorFlow's
# part


def test_workers_are_counted_as_the_environment_says(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert find_cluster() == Cluster(1, 0)
    with pytest.raises(common.UserError, match="multi_worker needs a job of several workers"):
        find_cluster("multi_worker")
    monkeypatch.setenv("SLURM_PROCID", "3")  # of a shell, say, without several tasks
    assert find_cluster() == Cluster(1, 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node7")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "4")
    assert find_cluster() == Cluster(4, 3)
    assert find_cluster("one") == find_cluster("mirrored") == Cluster(1, 0)
    # TF_CONFIG is set on purpose, SLURM's variables are there anyway.
    config = {
        "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
        "task": {"type": "worker", "index": 1},
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert find_cluster() == Cluster(3, 2)
    config["task"] = {"type": "chief", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert find_cluster() == Cluster(3, 0)


@pytest.mark.parametrize(
    "config",
    [
        "no json",
        "[]",
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {}}',
        '{"cluster": {"worker": "a:1,b:1"}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": ["a:1", "b:1"], "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": [["a:1"], ["b:1"]]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:65536"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:0"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "\\udcff:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1e400}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0.5}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": -1}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": true}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": ["worker"], "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": "worker"}',
    ],
)
def test_a_tf_config_that_makes_no_sense_is_told(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(common.UserError, match=re.escape(f"Received: {config}")):
        find_cluster()


def test_a_tf_config_of_deep_brackets_is_told(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "[" * 100_000)
    with pytest.raises(common.UserError, match="TF_CONFIG makes no sense"):
        find_cluster()


@pytest.mark.parametrize("config", ["", "{}", '{"task": {"type": "worker", "index": 3}}'])
def test_a_tf_config_without_a_cluster_is_one_process(config, monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    monkeypatch.setenv("TF_CONFIG", config)
    assert find_cluster() == Cluster(1, 0)


STEP = {
    "STEP_NUM_TASKS": "3",
    "STEP_NODELIST": "node[1-2]",
    "STEP_TASKS_PER_NODE": "2,1",
    "PROCID": "1",
    "JOB_ID": "7",
}


@pytest.mark.parametrize(
    "name, value",
    [
        *((name, value) for name in ("STEP_NUM_TASKS", "PROCID") for value in ("abc", "2.0", "-3")),
        ("STEP_NUM_TASKS", "0"),
        ("STEP_NUM_TASKS", "1e9"),
        ("PROCID", "3"),
        ("JOB_ID", "x"),
        ("STEP_NODELIST", ""),
        ("STEP_NODELIST", "node[1-2"),
        ("STEP_NODELIST", "node[1-[2-3]]"),
        ("STEP_NODELIST", "node[2-1]"),
        ("STEP_NODELIST", "a,,b"),
        ("STEP_NODELIST", "node[1-999999999]"),
        ("STEP_NODELIST", "n[1-99999]m[1-99999]"),
        ("STEP_TASKS_PER_NODE", "2(x"),
        ("STEP_TASKS_PER_NODE", "many"),
        ("STEP_TASKS_PER_NODE", "2,2"),
        ("STEP_TASKS_PER_NODE", "2,1,1"),
    ],
)
def test_variables_of_slurm_that_make_no_sense_are_told(name, value, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for variable, good in STEP.items():
        monkeypatch.setenv(f"SLURM_{variable}", good)
    assert find_cluster() == Cluster(3, 1)
    monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(common.UserError, match=f"^SLURM_{name} should be .*--strategy one"):
        find_cluster()
    assert find_cluster("one") == Cluster()


@pytest.mark.parametrize(
    "nodes, tasks, expected",
    [
        ("a", "3", "a:1 a:2 a:3"),
        ("n[08-10]", "1(x3)", "n08:1 n09:1 n10:1"),
        ("b,n[1,3]", "1", "b:1 n1:1 n3:1"),
        ("r[1-2]n[5-6].x", "1(x4)", "r1n5.x:1 r1n6.x:1 r2n5.x:1 r2n6.x:1"),
    ],
)
def test_lists_of_nodes_are_those_of_slurm(nodes, tasks, expected, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", str(len(expected.split())))
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    expected = [text.replace(":", ":2000") for text in expected.split()]
    assert list(find_cluster().addresses) == expected


def test_a_batch_is_shared_out_in_order_and_equally():
    class Strategy:
        num_replicas_in_sync = 6

    parts = [devices.shards(Strategy, Cluster(3, index), 6, 4) for index in range(3)]
    rows = [[list(range(24))[part] for part in worker] for worker in parts]
    assert [len(worker) for worker in rows] == [2, 2, 2]
    assert sum((part for worker in rows for part in worker), []) == list(range(24))
    with pytest.raises(common.UserError, match="Received: 26 images.* 6 replicas"):
        devices.shards(Strategy, Cluster(3, 0), 13, 2)


@pytest.mark.parametrize("P", [6, 8, 15])
def test_local_mining_needs_pids_to_compare_on_each_replica(P):
    class Strategy:
        num_replicas_in_sync = 6

    with pytest.raises(
        common.UserError, match=f"at least 2, on each of 6 replicas. Received: --batch_p {P}"
    ):
        devices.shards(Strategy, Cluster(6, 0), P, 6, "local")
    assert devices.shards(Strategy, Cluster(6, 1), 12, 4, "local") == [slice(8, 16)]


def test_addresses_of_a_slurm_step(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    resolver = cluster._slurm_resolver()
    assert resolver.cluster_spec().as_dict() == {
        "worker": ["node1:20007", "node1:20008", "node2:20007"]
    }
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
