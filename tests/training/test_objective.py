from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from experiment.flags import Settings
from training import companions, objective

P, K, D = 3, 4, 5
LABELS = np.repeat(np.arange(P), K)


@pytest.mark.parametrize(
    "flags", [{}, {"id_loss": "arcface", "id_centers": 2}, {"id_loss": "proxy_anchor"}]
)
def test_id_top1_is_the_share_of_images_whose_own_pid_scores_highest(flags):
    rng = np.random.default_rng(1)
    settings = Settings(
        experiment_root="exp",
        batch_p=P,
        batch_k=K,
        embedding_dim=D,
        head_name="direct",
        seed=0,
        id_loss_weight=1.0,
        **flags,
    )
    made = companions.build(np.full(P, K), settings)
    weights = rng.normal(size=made.classifier.kernel.shape).astype(np.float32)
    made.classifier.kernel.assign(weights)
    embs = rng.normal(size=(P * K, D)).astype(np.float32)
    state = SimpleNamespace(companions=made, optimizer=SimpleNamespace(scale_loss=lambda x: x))

    batch = objective.of_embeddings(
        {"emb": tf.constant(embs)}, tf.constant(LABELS), tf.constant(0, tf.int64), state, settings
    )

    if flags:  # cosines with the nearest center of each pid
        weights = weights / np.linalg.norm(weights, axis=0)
    nearest = (embs @ weights).argmax(axis=1) // settings.id_centers
    expected = np.mean(nearest == LABELS)
    assert 0 < expected < 1
    np.testing.assert_allclose(batch.means["id_top1"], expected)
    # It is only logged: the total is that of the losses.
    np.testing.assert_allclose(batch.scaled, batch.means["loss"] + batch.means["id_loss"])
