import numpy as np

from experiment import curves, metrics_log
from experiment.curves import Curve

LINE = (
    "2026-01-02 03:04:05,678 [INFO] train: iter:{:6d}, loss min|avg|max: 0.090|{}| 1.204, "
    "batch-p@3: 92.25%, ETA: 0"
)


def test_curves_come_from_metrics(tmp_path):
    logged = {
        "loss": 1.5,
        "batch_prec_at_3": 0.25,
        "batch_top1": 0.5,
        "learning_rate": 1e-3,
        "secs_per_iter": 0.2,
        "secs_waiting_for_images": 0.05,
    }
    lines = [
        metrics_log.line(1, logged),
        metrics_log.line(3, logged | {"loss": float("nan"), "secs_waiting_for_images": 0.3}),
        metrics_log.line(3, {"validation/mAP": 0.125}),
        # --id_loss_weight came later, by hand.
        metrics_log.line(5, {"id_loss": 2.0, "id_top1": 0.75, "center_loss": 3.0}),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    found = curves.read(tmp_path)
    others = ["learning_rate", "loss", "precision", "validation/mAP", "waiting"]
    assert sorted(found) == ["center_loss", "id_loss", "id_top1", *others]
    assert found["id_top1"] == Curve(np.array([5]), np.array([0.75]))
    assert found["loss"].iterations.tolist() == [1, 3]
    np.testing.assert_array_equal(found["loss"].values, [1.5, np.nan])
    assert found["precision"].values.tolist() == [0.25, 0.25]
    assert found["waiting"].values.tolist() == [0.25, 1.0]
    assert found["validation/mAP"].iterations.tolist() == [3]


def test_an_experiment_without_metrics_has_the_curves_of_its_log(tmp_path):
    (tmp_path / "train.log").write_text(f"{LINE.format(1, '0.500')}\n{LINE.format(2, 'nan')}\n")
    found = curves.read(tmp_path)
    assert sorted(found) == ["loss", "precision"]
    assert found["loss"].iterations.tolist() == [1, 2]
    np.testing.assert_array_equal(found["loss"].values, [0.5, np.nan])
    assert found["precision"].values.tolist() == [0.9225, 0.9225]


def test_an_experiment_that_has_logged_nothing_has_no_curves(tmp_path):
    assert curves.read(tmp_path) == {}


def test_points_are_means_of_neighbors():
    curve = Curve(np.arange(1, 8), np.array([1.0, 3, 5, 7, 9, 11, 13]))
    assert curves.mean_points(curve, 7) is curve
    few = curves.mean_points(curve, 3)
    assert few.iterations.tolist() == [2, 5, 7]
    assert few.values.tolist() == [3, 8, 12]
