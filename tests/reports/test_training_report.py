import json

import pytest
from web_page import Page

import runs
from common import UserError
from experiment import metrics_log
from reports import training

CHARTS = ["learning_rate", "loss", "precision", "validation_mAP", "waiting"]


def experiment(root, lines=40, **flags):
    root.mkdir(parents=True)
    args = {"experiment_root": str(root), "train_iterations": lines, "val_metric": "mAP"} | flags
    (root / "args.json").write_text(json.dumps(args))
    finished = f"2026-01-02 03:04:05,678 [INFO] train: Finished all {lines} iterations.\n"
    (root / "train.log").write_text(finished)
    with metrics_log.MetricsLog(root) as log:
        for iteration in range(1, lines + 1):
            values = {"loss": 1 / iteration, "batch_prec_at_3": iteration / 50}
            values |= {"learning_rate": 1e-3, "secs_per_iter": 0.1, "secs_waiting_for_images": 0.0}
            log.write(iteration, values | {"images_per_sec": 640.0})
            if iteration % 10 == 0:
                log.write(iteration, {"validation/mAP": iteration / 100})
    return root


def report(tmp_path, *roots):
    runs.main(runs.parse_args([*map(str, roots), "--report", str(tmp_path / "page")]))
    return (tmp_path / "page" / "training.html").read_text()


def test_one_training(tmp_path):
    root = experiment(tmp_path / "exp", learning_rate=0.125)
    text = report(tmp_path, root)
    page = Page(text)
    assert sorted(path.name for path in (tmp_path / "page").glob("*.png")) == [
        f"training_{name}.png" for name in CHARTS
    ]
    assert "Training of exp" in page.text
    assert "Finished: iteration 40 of 40." in page.text
    assert "still rising at the end, to 40.0%" in page.text
    assert [cell for cell in ("--learning_rate", "0.125", "0.0003") if cell in page.text] == [
        "--learning_rate",
        "0.125",
        "0.0003",
    ]
    assert "--val_metric" not in page.text  # it has its default
    assert "Validation mAP: exp 40.0% at 40." in text


def test_the_best_figures_are_those_of_one_checkpoint(tmp_path):
    root = experiment(tmp_path / "exp", lines=4, val_metric="top-1")
    with metrics_log.MetricsLog(root) as log:
        log.write(5, {"validation/mAP": 0.25, "validation/top-1": 0.75})
        log.write(6, {"validation/mAP": 0.5, "validation/top-1": 0.625})
    text = report(tmp_path, root)
    for figure in ("best validation top-1</dt><dd>75.0%", "last validation top-1</dt><dd>62.5%"):
        assert figure in text
    for figure in ("best validation mAP</dt><dd>25.0%", "last validation mAP</dt><dd>50.0%"):
        assert figure in text
    assert "The best validation is that of iteration 5, by top-1." in text
    # 1/4, of the last tenth of four iterations; 4/50.
    assert "loss</dt><dd>0.250" in text
    assert "precision in the batch</dt><dd>8.0%" in text
    assert "Loss and precision are means over the last tenth of the iterations." in text


def test_several_trainings_lie_over_one_another(tmp_path):
    one = experiment(tmp_path / "<b>one", margin=0.2)
    other = experiment(tmp_path / "other", lines=20, margin="soft")
    page = Page(report(tmp_path, one, other))
    assert "2 trainings" in page.text
    assert "margin" in page.text
    assert "<b>one" in page.text  # escaped: else it would be a tag
    assert page.text.count("was still rising") == 1  # two validations show no trend


def test_equal_names_are_told_apart_by_their_paths(tmp_path):
    roots = [experiment(tmp_path / folder / "exp") for folder in ("a", "b")]
    found = training.read(roots, [{}, {}])
    assert [each.name for each in found] == [str(root) for root in roots]


def test_a_training_with_a_classifier_shows_its_loss_and_its_share(tmp_path):
    root = tmp_path / "exp"
    root.mkdir()
    (root / "args.json").write_text(json.dumps({"train_iterations": 2}))
    with metrics_log.MetricsLog(root) as log:
        for iteration in (1, 2):
            log.write(iteration, {"loss": 1.0, "id_loss": 2.5, "id_top1": 0.25 * iteration})
    text = report(tmp_path, root)
    names = sorted(path.name for path in (tmp_path / "page").glob("*.png"))
    assert names == [f"training_{name}.png" for name in ("id_loss", "id_top1", "loss")]
    assert "Share of the batch's images to which the classifier gives" in Page(text).text


def test_an_experiment_that_has_nothing_yet_is_shown(tmp_path):
    root = tmp_path / "new"
    root.mkdir()
    (root / "args.json").write_text(json.dumps({"train_iterations": 40}))
    page = Page(report(tmp_path, root))
    assert "Stopped: iteration 0 of 40." in page.text
    assert not list((tmp_path / "page").glob("*.png"))


@pytest.mark.parametrize("name", ["training.html", "training_loss.png"])
def test_a_file_of_somebody_else_is_not_replaced(tmp_path, name):
    root = experiment(tmp_path / "exp")
    report(tmp_path, root)
    assert report(tmp_path, root)  # its own files are
    for path in (tmp_path / "page").iterdir():
        path.unlink()
    other = tmp_path / "page" / name
    other.write_text("mine")
    with pytest.raises(UserError, match=f"{name} is not of an earlier report"):
        report(tmp_path, root)
    assert [path.name for path in (tmp_path / "page").iterdir()] == [name]
    assert other.read_text() == "mine"
