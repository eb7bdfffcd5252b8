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
# Means over triplets and over anchors are the same where all pids have as many images.
PK_PIDS = np.repeat(np.arange(4), 3)


def main() -> None:
    import torch

    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    arrays = of_identities(rng) | of_images(rng)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


def of_identities(rng: np.random.Generator) -> dict[str, np.ndarray]:
    from pytorch_metric_learning import losses

    # Embeddings are near the weights of their pids or, some of them, on the other side: θ + m > π.
    weights = rng.normal(size=(D, N))
    embs = 3 * (weights.T[PIDS] + 0.8 * rng.normal(size=(len(PIDS), D)))
    embs[[1, 6]] *= -1
    sub_weights = rng.normal(size=(D, N * CENTERS))
    sizes = {"num_classes": N, "embedding_size": D}
    arcface = sizes | {"margin": np.degrees(0.5), "scale": 64}
    made = {
        "cosface": (losses.CosFaceLoss(**sizes), "W", weights),
        "arcface": (losses.ArcFaceLoss(**arcface), "W", weights),
        "sub_centers": (
            losses.SubCenterArcFaceLoss(**arcface, sub_centers=CENTERS),
            "W",
            sub_weights,
        ),
        "proxy_anchor": (losses.ProxyAnchorLoss(**sizes), "proxies", weights.T),
    }
    arrays = {"embs": embs, "pids": PIDS, "weights": weights, "sub_weights": sub_weights}
    for name, (loss, weight, values) in made.items():
        arrays |= numbers(name, loss, embs, PIDS, {weight: values})
    return arrays


def of_images(rng: np.random.Generator) -> dict[str, np.ndarray]:
    from pytorch_metric_learning import distances, losses, miners, reducers

    of_pids = rng.normal(size=(4, D))
    embs = of_pids[PK_PIDS] + 0.7 * rng.normal(size=(len(PK_PIDS), D))
    earlier = of_pids[PK_PIDS] + 0.7 * rng.normal(size=(len(PK_PIDS), D))
    length = {"distance": distances.LpDistance(normalize_embeddings=False)}
    mean = {"reducer": reducers.MeanReducer()}
    hard = miners.BatchHardMiner(**length)
    circle = losses.CircleLoss(m=0.25, gamma=64, **mean)
    supcon = losses.SupConLoss(temperature=0.1, **mean)
    made = {
        "batch_hard": (losses.TripletMarginLoss(0.5, **length, **mean), hard),
        "batch_hard_soft": (
            losses.TripletMarginLoss(0.0, smooth_loss=True, **length, **mean),
            hard,
        ),
        "batch_all": (losses.TripletMarginLoss(0.5, **length, **mean), None),
        "batch_all_without_zeros": (losses.TripletMarginLoss(0.5, **length), None),
        "lifted": (losses.GeneralizedLiftedStructureLoss(neg_margin=1.0, **length, **mean), None),
        "multi_similarity": (
            losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5, **mean),
            miners.MultiSimilarityMiner(epsilon=0.1),
        ),
        "circle": (circle, None),
        "supcon": (supcon, None),
    }
    arrays = {"pk_embs": embs, "pk_pids": PK_PIDS, "earlier": earlier}
    for name, (loss, miner) in made.items():
        arrays |= numbers(name, loss, embs, PK_PIDS, miner=miner)
    for name, loss in {"circle": circle, "supcon": supcon}.items():
        memory = losses.CrossBatchMemory(loss, embedding_size=D, memory_size=2 * len(PK_PIDS))
        numbers(name, memory, earlier, PK_PIDS)
        arrays[f"{name}_with_memory/loss"] = numbers(name, memory, embs, PK_PIDS)[f"{name}/loss"]
    return arrays


def numbers(name, loss, embs, pids, weights=None, miner=None) -> dict[str, np.ndarray]:
    """The mean loss, and its gradients by embeddings and by weights."""
    import torch

    x = torch.tensor(embs, requires_grad=True)
    for weight, values in (weights or {}).items():
        getattr(loss, weight).data = torch.tensor(values.copy())
    labels = torch.tensor(pids)
    mean = loss(x, labels, miner(x, labels)) if miner else loss(x, labels)
    mean.backward()
    arrays = {f"{name}/loss": mean.item(), f"{name}/by_embs": x.grad.numpy()}
    for weight in weights or ():
        arrays[f"{name}/by_weights"] = getattr(loss, weight).grad.numpy()
    return arrays


if __name__ == "__main__":
    main()
