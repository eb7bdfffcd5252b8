"""Makes metric_learning.npz: losses and gradients as pytorch-metric-learning has them, in float64.

    pip install torch pytorch-metric-learning==2.9.0
    python tests/golden/metric_learning.py

tests/test_loss.py and tests/training/test_companions.py compare with them. Nothing else needs PyTorch.
"""

from pathlib import Path

import numpy as np

N, D, CENTERS = 6, 8, 3
# One pid has one image only, and one has none in the batch.
PIDS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 0, 4, 4, 4])


def main() -> None:
    import torch
    from pytorch_metric_learning import losses

    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    # Embeddings are near the weights of their pids or, some of them, on the other side: θ + m > π.
    weights = rng.normal(size=(D, N))
    embs = 3 * (weights.T[PIDS] + 0.8 * rng.normal(size=(len(PIDS), D)))
    embs[[1, 6]] *= -1
    sub_weights = rng.normal(size=(D, N * CENTERS))
    arrays = {"embs": embs, "pids": PIDS, "weights": weights, "sub_weights": sub_weights}

    def add(name, loss, weight=None, values=None):
        """The mean loss, and its gradients by embeddings and by weights."""
        x = torch.tensor(embs, requires_grad=True)
        if weight is not None:
            getattr(loss, weight).data = torch.tensor(values)
        mean = loss(x, torch.tensor(PIDS))
        mean.backward()
        arrays[f"{name}/loss"] = mean.item()
        arrays[f"{name}/by_embs"] = x.grad.numpy()
        if weight is not None:
            arrays[f"{name}/by_weights"] = getattr(loss, weight).grad.numpy()

    sizes = {"num_classes": N, "embedding_size": D}
    add("cosface", losses.CosFaceLoss(**sizes), "W", weights)
    arcface = {"margin": np.degrees(0.5), "scale": 64}
    add("arcface", losses.ArcFaceLoss(**sizes, **arcface), "W", weights)
    sub_centers = losses.SubCenterArcFaceLoss(**sizes, **arcface, sub_centers=CENTERS)
    add("sub_centers", sub_centers, "W", sub_weights)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
