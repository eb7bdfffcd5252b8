"""Every choice goes with the others: two iterations, saved, resumed to the same bits, embedded."""

import shutil

import h5py
import numpy as np
import pytest
import replicas

import common
import embed
import train
from benchmarks import kill_and_resume
from experiment import flags

D = 16  # the features of the plain net, so that the neck has no layer before it

CASES = {
    **{
        f"{loss} on {head}": [f"--loss={loss}", f"--head_name={head}"]
        for loss in common.LOSSES
        for head in common.plugin_names("heads")
        if loss != "supcon"  # below
    },
    **{
        f"{loss} without zeros": [f"--loss={loss}", "--loss_ignore_zero", "--margin=0.2"]
        for loss in ("batch_hard", "batch_all")
    },
    **{f"metric {metric}": [f"--metric={metric}"] for metric in common.METRICS},
    "exponential": ["--decay_start_iteration=1"],
    "exponential that ends early": ["--decay_start_iteration=0", "--decay_to=1"],
    "cosine with warm-up": [
        "--lr_schedule=cosine",
        "--decay_start_iteration=0",
        "--warmup_iterations=1",
    ],
    "multistep": ["--lr_schedule=multistep", "--lr_milestones=1"],
    "constant": ["--lr_schedule=constant"],
    "adam with a late beta1": ["--adam_beta1_decay", "--decay_start_iteration=1"],
    "adamw": ["--optimizer=adamw", "--weight_decay=0.01"],
    "sgd": ["--optimizer=sgd", "--momentum=0.9", "--nesterov", "--clip_norm=0.1"],
    "rmsprop": ["--optimizer=rmsprop", "--rho=0.8", "--optimizer_epsilon=1e-3"],
    "adadelta": ["--optimizer=adadelta"],
    "constants of adam": ["--adam_beta1=0.8", "--adam_beta2=0.99", "--l2=5e-4"],
    "factors of rates": ["--lr_factors=net=0.5,head=2,classifier=10,bias=2", "--id_loss_weight=1"],
    "a rate for each layer": ["--layer_decay=0.5", "--optimizer=adamw", "--weight_decay=0.01"],
    "constants of a loss": ["--loss=circle", "--loss_constants=gamma=32,m=0.4"],
    "a frozen body": ["--freeze_body_iterations=1"],
    "chunks": ["--chunk=2", "--head_name=fc1024"],
    "chunks of a neck in bfloat16": [
        "--chunk=3",
        "--head_name=bnneck",
        "--id_loss_weight=1",
        "--center_loss_weight=0.1",
        "--precision=mixed_bfloat16",
        "--ema=0.99",
    ],
    "activations that are computed again": ["--remat", "--head_name=fc1024", "--id_loss_weight=1"],
    "frozen statistics": ["--bn_frozen", "--head_name=fc1024"],
    "averaged weights": ["--ema=0.99"],
    "averaged weights in float16": ["--ema=0.99", "--precision=mixed_float16"],
    "bfloat16": ["--precision=mixed_bfloat16"],
    "float16": ["--precision=mixed_float16"],
    "float16 on the neck": [
        "--precision=mixed_float16",
        "--head_name=bnneck",
        "--id_loss_weight=1",
    ],
    "identities": ["--head_name=bnneck", "--id_loss_weight=1", "--center_loss_weight=5e-4"],
    "identities on a normalized head": [
        "--head_name=fc1024_normalize",
        "--id_loss_weight=1",
        "--center_loss_weight=0.1",
    ],
    "cosface on a neck with a memory": [
        "--head_name=bnneck",
        "--id_loss_weight=0.1",
        "--id_loss=cosface",
        "--id_centers=2",
        "--loss=lifted",
        "--memory_batches=2",
        "--memory_start=1",
        "--warmup_iterations=1",
        "--ema=0.9",
    ],
    "arcface alone, with margins by count, in float16": [
        "--loss_weight=0",
        "--id_loss_weight=0.1",
        "--id_loss=arcface",
        "--id_margin_by_count=0.5,0.25,0.05",
        "--center_loss_weight=0.1",
        "--label_smoothing=0.1",
        "--precision=mixed_float16",
    ],
    "supcon and circle with a memory in chunks of bfloat16": [
        "--loss=supcon",
        "--id_loss_weight=0.1",
        "--id_loss=circle",
        "--memory_batches=2",
        "--memory_start=0",
        "--chunk=2",
        "--precision=mixed_bfloat16",
    ],
    "proxies": ["--id_loss_weight=1", "--id_loss=proxy_anchor", "--head_name=fc1024"],
    "augmentation": [
        "--pad_crop=2",
        "--color_jitter=0.3",
        "--random_erasing=0.5",
        "--flip_augment",
        "--cameras=market1501",
    ],
    "a shuffle": [
        "--sampler=shuffle",
        "--batch_size=5",
        "--id_loss_weight=1",
        "--center_loss_weight=0.1",
    ],
    "balanced pids": ["--sampler=balanced", "--batch_size=6", "--chunk=3", "--cameras=market1501"],
    "more augmentation": [
        "--random_resized_crop=0.3",
        "--crop_aspect=1.5",
        "--rotation=15",
        "--trivial_augment=1",
        "--gray=0.3",
        "--blur=0.5",
        "--flip_makes_new_pid",
        "--cache=decoded",
    ],
    "crops and a cache": ["--crop_augment", "--cache=decoded"],
}


@pytest.fixture
def plain_net():
    with replicas.plain_net():
        yield


@pytest.mark.parametrize("case", CASES)
def test_it_trains_resumes_and_embeds(case, plain_net, dataset, tmp_path):
    root = tmp_path / "whole"
    typed = f"--experiment_root={root} --train_set={dataset.csv} --image_root={dataset.root} --embedding_dim={D}"
    typed += " --model_name=lunet_narrow"
    if not any(flag.startswith("--sampler") for flag in CASES[case]):
        typed += " --batch_p=3 --batch_k=2"
    typed += " --net_input_height=24 --net_input_width=16 --pre_crop_height=28"
    typed += " --pre_crop_width=18 --learning_rate=1e-2 --train_iterations=2 --checkpoint_frequency=1 --detailed_logs"
    typed += " --image_frequency=0 --seed=3"
    train.main(train.parse_args([*typed.split(), *CASES[case]]))

    resumed = tmp_path / "resumed"
    shutil.copytree(root, resumed)
    for file in resumed.glob("checkpoint-2.*"):
        file.unlink()
    # TensorBoard reads events by the second in their names, and both runs may be in one.
    (events,) = resumed.glob("events.out.tfevents.*")
    *start, second, rest = events.name.split(".", 4)
    events.rename(resumed / ".".join([*start, str(int(second) - 1), rest]))
    train.main(train.parse_args([f"--experiment_root={resumed}", "--resume"]))
    assert kill_and_resume.differences(root, resumed) == []

    embed.main(
        embed.parse_args([f"--experiment_root={root}", f"--dataset={dataset.csv}", "--quiet"])
    )
    with h5py.File(root / "all_embeddings.h5") as file:
        embs = file["emb"][()]
    assert embs.shape == (len(dataset.fids), D) and np.isfinite(embs).all()
    assert len(np.unique(embs, axis=0)) == len(embs)


def test_the_table_has_every_choice():
    chosen = {flag for flags in CASES.values() for flag in flags}
    for action in flags.make_parser("")._actions:
        if action.dest in (
            "loss",
            "id_loss",
            "head_name",
            "metric",
            "optimizer",
            "lr_schedule",
            "sampler",
        ):
            names = common.plugin_names("heads") if action.dest == "head_name" else action.choices
            missing = {
                f"--{action.dest}={name}" for name in names if name != action.default
            } - chosen
            assert not missing
