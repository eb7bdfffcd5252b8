import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf
from paths import GOLDEN

import loss
import train
from experiment import detailed_logs
from network import checkpoints
from training.memory import Memory

# Of pytorch-metric-learning 2.9; see golden/metric_learning.py.
THEIRS = np.load(GOLDEN / "metric_learning.npz")


def filled(size, *batches):
    """A memory of so many embeddings, into which batches (embeddings, labels) have been put."""
    memory = Memory(size)
    memory.build((None, batches[0][0].shape[1]))
    for embs, labels in batches:
        memory.enqueue(tf.constant(embs, tf.float32), tf.constant(labels))
    return memory


def test_the_newest_are_at_the_end_and_the_oldest_leave():
    rng = np.random.default_rng(0)
    embs = rng.normal(size=(3, 2, 4)).astype(np.float32)
    memory = filled(4, (embs[0], [7, 8]))
    np.testing.assert_array_equal(memory.embs, [*np.zeros((2, 4)), *embs[0]])
    np.testing.assert_array_equal(memory.labels, [-1, -1, 7, 8])
    for number in (1, 2):
        tf.function(memory.enqueue)(tf.constant(embs[number]), tf.constant([number, number]))
    np.testing.assert_array_equal(memory.embs, [*embs[1], *embs[2]])
    np.testing.assert_array_equal(memory.labels, [1, 1, 2, 2])
    assert memory.trainable_variables == []
    assert set(checkpoints.named_variables([memory])) == {"memory/embs", "memory/labels"}


@pytest.mark.parametrize("name", ["circle", "supcon"])
def test_losses_with_a_memory_are_those_of_pytorch_metric_learning(name):
    embs, pids = tf.constant(THEIRS["pk_embs"], tf.float32), tf.constant(THEIRS["pk_pids"])
    memory = filled(36, (THEIRS["earlier"], pids))  # with a batch that is empty
    columns = memory.append_to(loss.Columns(pids, embs=embs), in_use=tf.constant(True))
    losses, _ = loss.per_anchor(loss.Choice(name), embs, loss.cdist(embs, embs), pids, columns)
    assert np.mean(losses) == pytest.approx(THEIRS[f"{name}_with_memory/loss"], rel=1e-6)
    unused = memory.append_to(loss.Columns(pids, embs=embs), in_use=tf.constant(False))
    losses, _ = loss.per_anchor(loss.Choice(name), embs, loss.cdist(embs, embs), pids, unused)
    assert np.mean(losses) == pytest.approx(THEIRS[f"{name}/loss"], rel=1e-6)


def hardest(emb, pid, own, columns, pids):
    """The batch-hard loss of an anchor, which is column `own` or none, one by one."""
    distance = [np.sqrt(((emb - other) ** 2).sum() + 1e-12) for other in columns]
    positives = [
        d for d, p, i in zip(distance, pids, range(len(pids)), strict=True) if p == pid and i != own
    ]
    negatives = [d for d, p in zip(distance, pids, strict=True) if p != pid]
    return np.log1p(np.exp(max(positives) - min(negatives)))


@pytest.mark.parametrize("more", [[], ["--chunk=3"]], ids=["whole", "in chunks"])
def test_a_training_compares_with_the_batches_before(dataset, tmp_path, more):
    """From the logged embeddings of all iterations follow the logged losses."""
    size, start, B = 2, 3, 6
    typed = f"--experiment_root={tmp_path / 'exp'} --train_set={dataset.csv} --image_root={dataset.root}"
    typed += (
        " --embedding_dim=16 --head_name=direct --model_name=lunet_narrow --batch_p=3 --batch_k=2"
    )
    typed += " --net_input_height=24 --net_input_width=16 --learning_rate=1e-3 --train_iterations=6"
    typed += f" --memory_batches={size} --memory_start={start} --detailed_logs --image_frequency=0 --seed=3"
    with replicas.plain_net():
        train.main(train.parse_args([*typed.split(), *more]))
    embs, losses, fids = (
        detailed_logs.read(tmp_path / "exp" / name) for name in ("embeddings", "losses", "fids")
    )
    pid_of = dict(zip(map(str.encode, dataset.fids), dataset.pids, strict=True))
    pids = [[pid_of[fid] for fid in batch] for batch in fids.tolist()]
    for iteration in range(6):
        earlier = range(max(0, iteration - size), iteration) if iteration >= start else ()
        columns = np.concatenate([embs[iteration], *(embs[number] for number in earlier)])
        column_pids = sum((pids[number] for number in earlier), pids[iteration])
        expected = [
            hardest(embs[iteration][i], pids[iteration][i], i, columns, column_pids)
            for i in range(B)
        ]
        np.testing.assert_allclose(losses[iteration], expected, rtol=1e-4)
    reader = tf.train.load_checkpoint(str(checkpoints.newest(tmp_path / "exp")))
    np.testing.assert_array_equal(reader.get_tensor("memory/embs"), embs[-size:].reshape(-1, 16))
    found = reader.get_tensor("memory/labels")
    names = sorted(set(dataset.pids))
    assert [names[label] for label in found] == sum(pids[-size:], [])


def test_what_comes_from_the_memory_has_no_gradient():
    rng = np.random.default_rng(1)
    memory = filled(6, (rng.normal(size=(6, 4)), [0, 0, 0, 1, 1, 1]))
    x, pids = tf.Variable(rng.normal(size=(4, 4)), dtype=tf.float32), tf.constant([0, 0, 1, 1])
    fixed = tf.constant(np.concatenate([x.numpy(), memory.embs.numpy()]))
    all_pids = tf.constant([0, 0, 1, 1, 0, 0, 0, 1, 1, 1])
    with tf.GradientTape(persistent=True) as tape:
        columns = memory.append_to(loss.Columns(pids, embs=x), in_use=tf.constant(True))
        ours = tf.reduce_sum(loss.supcon(x, pids, columns))
        whole = tf.concat([x, fixed[4:]], axis=0)
        reference = tf.reduce_sum(loss.supcon(x, pids, loss.Columns(all_pids, embs=whole)))
    assert tape.gradient(ours, memory.embs.value) is None
    np.testing.assert_allclose(ours, reference, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(ours, x), tape.gradient(reference, x), rtol=1e-5)
    assert not keras.tree.flatten(memory.trainable_variables)
