"""Everything a person can get wrong at the shell: each ends with its exit code and its words, and
writes nothing.
"""

import contextlib
import re
import sys

import h5py
import numpy as np
import pytest

import common
import embed
import evaluate
import train
from experiment import flags, folder
from runtime import files

MAINS = {"train": train, "embed": embed, "evaluate": evaluate}
TRAIN = [
    "train",
    "--experiment_root=new",
    "--train_set=good.csv",
    "--image_root=images",
    "--batch_p=2",
    "--batch_k=2",
]
RESUME = ["train", "--resume"]
EMBED = ["embed", "--dataset=good.csv", "--experiment_root=exp"]
EVALUATE = ["evaluate", "--excluder=diagonal", "--metric=euclidean", "--query_dataset=good.csv"]
EVALUATE += [
    "--gallery_dataset=good.csv",
    "--query_embeddings=good.h5",
    "--gallery_embeddings=good.h5",
]
REPORT = [*EVALUATE, "--report=new", "--image_root=images"]

# name: (command and flags, exit code, words of the last line on stderr)
CASES = {
    "no flags": (["train"], 2, "required.*--experiment_root"),
    "an unknown flag": (
        [*TRAIN, "--batchsize=3"],
        2,
        "unrecognized arguments: --batchsize=3. .*--help lists all flags",
    ),
    "a flag with a typo": (
        [*TRAIN, "--learningrate", "3"],
        2,
        "--learningrate 3. Meant: --learning_rate?",
    ),
    "two flags with typos": (
        [*TRAIN, "--learningrate", "3", "--los=circle"],
        2,
        "--learningrate: meant --learning_rate\\? --los: meant --loss\\? --help",
    ),
    "a net with a typo": (
        [*TRAIN, "--model_name=lunet_narow"],
        2,
        "no 'lunet_narow' in nets/\\. Meant: lunet_narrow\\? Available: .*resnet_v1_50",
    ),
    "a choice with a typo": (
        [*TRAIN, "--loss=batch_hrad"],
        2,
        "argument --loss: invalid choice: 'batch_hrad'.* Meant: batch_hard\\?$",
    ),
    "a choice that is like no other": (
        [*TRAIN, "--loss=x"],
        2,
        "argument --loss: invalid choice: 'x' \\(choose from [^)]*\\)$",
    ),
    "no train_set": (
        ["train", "--experiment_root=new", "--image_root=images"],
        2,
        "--train_set: needed",
    ),
    "no image_root": (
        ["train", "--experiment_root=new", "--train_set=good.csv"],
        2,
        "--image_root: needed",
    ),
    "a train_set that is missing": (
        [*TRAIN, "--train_set=nowhere.csv"],
        2,
        "--train_set.*existing file.*nowhere.csv",
    ),
    "an image_root that is missing": (
        [*TRAIN, "--image_root=nowhere"],
        2,
        "--image_root.*existing directory.*nowhere",
    ),
    "an image_root that is a file": (
        [*TRAIN, "--image_root=good.csv"],
        2,
        "--image_root.*existing directory",
    ),
    "an unknown net": (
        [*TRAIN, "--model_name=alexnet"],
        2,
        "'alexnet' in nets/.*Available:.*resnet_v1_50",
    ),
    "a net by a path": ([*TRAIN, "--model_name=../train"], 2, "--model_name.*Available"),
    "a net that is a shared file": ([*TRAIN, "--model_name=_lunet"], 2, "--model_name.*Available"),
    "an unknown head": ([*TRAIN, "--head_name=fc1"], 2, "'fc1' in heads/.*Available: .*direct"),
    "an unknown loss": ([*TRAIN, "--loss=batch_soft"], 2, "--loss.*'batch_soft'.*batch_hard"),
    "an unknown metric": (
        [*TRAIN, "--metric=manhattan"],
        2,
        "--metric.*'manhattan'.*euclidean.*cityblock",
    ),
    "a margin in words": (
        [*TRAIN, "--margin=big"],
        2,
        '--margin: should be "soft", "none" or .* Received: big',
    ),
    "a margin that is nan": ([*TRAIN, "--margin=nan"], 2, "--margin.*Received: nan"),
    "a margin for a loss without": (
        [*TRAIN, "--loss=circle", "--margin=0.2"],
        2,
        "--loss circle has no margin.*Received: --margin 0.2.*batch_hard, batch_all",
    ),
    "zeros of a loss that has none": (
        [*TRAIN, "--loss=lifted", "--margin=0.2", "--loss_ignore_zero"],
        2,
        "--loss_ignore_zero is for --loss batch_hard and batch_all. Received: --loss lifted",
    ),
    "zeros of a soft margin": (
        [*TRAIN, "--loss=batch_all", "--loss_ignore_zero"],
        2,
        "--loss_ignore_zero needs a number as --margin.*Received: --margin soft",
    ),
    "an ID loss below 0": (
        [*TRAIN, "--id_loss_weight=-1"],
        2,
        "--id_loss_weight.*at least 0. Received: -1",
    ),
    "a loss of identities without a weight": (
        [*TRAIN, "--id_loss=arcface"],
        2,
        "--id_loss is for --id_loss_weight above 0. Received: 0.0",
    ),
    "a margin of softmax": (
        [*TRAIN, "--id_loss_weight=1", "--id_margin=0.3"],
        2,
        "--id_margin is for --id_loss cosface or arcface or circle or proxy_anchor. Received: softmax",
    ),
    "a margin in degrees": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=arcface", "--id_margin=28.6"],
        2,
        "--id_margin of --id_loss arcface should .*from 0 to below 3.14 radians.*Received: 28.6",
    ),
    "a margin beyond all cosines": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=circle", "--id_margin=1"],
        2,
        "--id_margin of --id_loss circle should .*from 0 to below 1. Received: 1",
    ),
    "margins by count beyond all angles": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=arcface", "--id_margin_by_count=3,0.25,0.2"],
        2,
        "--id_margin_by_count of --id_loss arcface should .*Received: 3,0.25,0.2",
    ),
    "margins by two numbers": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=arcface", "--id_margin_by_count=0.5,0.25"],
        2,
        "--id_margin_by_count: should be A,POWER,LEAST.*Received: 0.5,0.25",
    ),
    "margins by count of circle": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=circle", "--id_margin_by_count=0.5,0.25,0"],
        2,
        "--id_margin_by_count is for --id_loss cosface or arcface. Received: circle",
    ),
    "two kinds of margins": (
        [
            *TRAIN,
            "--id_loss_weight=1",
            "--id_loss=arcface",
            "--id_margin=0.3",
            "--id_margin_by_count=0.5,0.25,0",
        ],
        2,
        "--id_margin 0.3 is one margin.*--id_margin_by_count 0.5,0.25,0.*Give one",
    ),
    "nothing to train": (
        [*TRAIN, "--loss_weight=0", "--center_loss_weight=1"],
        2,
        "--loss_weight 0 leaves nothing.*Add an --id_loss_weight",
    ),
    "a memory for nothing": (
        [*TRAIN, "--loss_weight=0", "--id_loss_weight=1", "--memory_batches=2"],
        2,
        "--memory_batches 2 is for a --loss that trains. Received: --loss_weight 0",
    ),
    "angles by blocks": (
        [
            *TRAIN,
            "--loss_weight=0",
            "--id_loss_weight=1",
            "--id_loss=arcface",
            "--metric=cityblock",
        ],
        2,
        "--id_loss arcface compares by cosine.*Received: --metric cityblock",
    ),
    "smoothing of proxies": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=proxy_anchor", "--label_smoothing=0.2"],
        2,
        "--id_loss proxy_anchor has no labels to smooth. Received: --label_smoothing 0.2",
    ),
    "several proxies": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=proxy_anchor", "--id_centers=2"],
        2,
        "--id_centers is for --id_loss cosface or arcface or circle. Received: proxy_anchor",
    ),
    "no centers": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=arcface", "--id_centers=0"],
        2,
        "--id_centers: should be an integer of at least 1. Received: 0",
    ),
    "a scale that float32 cannot hold": (
        [*TRAIN, "--id_loss_weight=1", "--id_loss=arcface", "--id_scale=1e39"],
        2,
        "--id_scale: should be a number above 0, at most 10000. Received: 1e39",
    ),
    "smoothing of 1": (
        [*TRAIN, "--label_smoothing=1"],
        2,
        "--label_smoothing.*from 0 to below 1. Received: 1",
    ),
    "a center loss of nan": (
        [*TRAIN, "--center_loss_weight=nan"],
        2,
        "--center_loss_weight.*Received: nan",
    ),
    "batch_p 0": (
        [*TRAIN, "--batch_p=0"],
        2,
        "--batch_p: should be an integer of at least 1. Received: 0",
    ),
    "batch_p 1": ([*TRAIN, "--batch_p=1"], 2, "--batch_p should be at least 2.*Received: 1"),
    "batch_k 1": ([*TRAIN, "--batch_k=1"], 2, "--batch_k should be at least 2"),
    "chunk 3 of 4": ([*TRAIN, "--chunk=3"], 2, "--chunk should divide the 4 images of a batch"),
    "batch_k in words": ([*TRAIN, "--batch_k=four"], 2, "--batch_k.*Received: four"),
    "cameras of an unknown name": (
        [*TRAIN, "--cameras=market"],
        2,
        "--cameras: .*market1501, duke.*Received: market",
    ),
    "cameras by no regular expression": (
        [*TRAIN, "--cameras=c("],
        2,
        r"--cameras: .*expression.*Received: c\(",
    ),
    "cameras by two groups": (
        [*TRAIN, r"--cameras=(c)(\d)"],
        2,
        "--cameras: .*one group, the camera. Received",
    ),
    "a pooling that there is not": ([*TRAIN, "--pooling=max"], 2, "--pooling.*'max'.*avg.*gem"),
    "a pooling that the net has not": (
        [*TRAIN, "--pooling=gem", "--model_name=lunet"],
        2,
        "--pooling gem is not for --model_name lunet. Nets that have it: densenet121, .*resnet_v1_50",
    ),
    "a class token of a net without": (
        [*TRAIN, "--pooling=token", "--model_name=resnet50"],
        2,
        "--pooling token is not for --model_name resnet50. Nets that have it: vit_base_patch14_dinov2, .*",
    ),
    "a generalized mean of patch tokens": (
        [*TRAIN, "--pooling=gem", "--model_name=vit_small_patch16"],
        2,
        "--pooling gem is not for --model_name vit_small_patch16. Nets that have it: densenet121",
    ),
    "stochastic depth of a net without": (
        [*TRAIN, "--drop_path=0.1", "--model_name=resnet50"],
        2,
        "--drop_path 0.1 is not for --model_name resnet50. Nets that have it: convnext_tiny_torch, vit_base",
    ),
    "a drop path of 1": ([*TRAIN, "--drop_path=1"], 2, "--drop_path.*from 0 to below 1.*1"),
    "a last stride of 3": ([*TRAIN, "--last_stride=3"], 2, "--last_stride.*3.*1, 2"),
    "a last stride that the net has not": (
        [*TRAIN, "--last_stride=1", "--model_name=convnext_tiny"],
        2,
        "--last_stride 1 is not for --model_name convnext_tiny. Nets that have it: .*resnet50_torch, resnet_v1_101",
    ),
    "embedding with a pooling that the net has not": (
        [*EMBED, "--experiment_root=bad_pooling"],
        1,
        "--pooling gem is not for --model_name lunet",
    ),
    "embedding_dim": (
        [*TRAIN, "--embedding_dim=-3"],
        2,
        "--embedding_dim.*at least 1. Received: -3",
    ),
    "a height of 0": ([*TRAIN, "--net_input_height=0"], 2, "--net_input_height.*Received: 0"),
    "no threads": ([*TRAIN, "--loading_threads=0"], 2, "--loading_threads.*Received: 0"),
    "threads beyond sense": (
        [*TRAIN, "--loading_threads=1000000000"],
        2,
        "--loading_threads: should be at most 1024. Received: 1000000000",
    ),
    "images of a pid beyond sense": (
        [*TRAIN, "--batch_k=100000000"],
        2,
        "--batch_k: should be at most 10000. Received",
    ),
    "a height beyond sense": (
        [*TRAIN, "--net_input_height=1000000000"],
        2,
        "--net_input_height: should be at most 16384. Received",
    ),
    "a dimension beyond sense": (
        [*TRAIN, "--embedding_dim=1000000000000"],
        2,
        "--embedding_dim: should be at most 1000000. Received",
    ),
    "a number of 400 digits": (
        [*TRAIN, f"--checkpoint_frequency={'9' * 400}"],
        2,
        "--checkpoint_frequency: should be at most 9223372036854775807. Received: 9{100}\\.\\.\\.$",
    ),
    "a rate beyond float32": (
        [*TRAIN, "--learning_rate=1e39"],
        2,
        "--learning_rate: should be below 3.4e38, as float32 is. Received: 1e39",
    ),
    "a path that is no UTF-8": (
        [*TRAIN, "--experiment_root=new\udcff"],
        2,
        r"paths should be UTF-8. Received: '--experiment_root=new\\udcff'. Rename",
    ),
    "embedding a CSV whose path is no UTF-8": (
        [*EMBED, "--dataset=\udcff.csv"],
        2,
        "paths should be UTF-8",
    ),
    "embedding with threads beyond sense": (
        [*EMBED, "--loading_threads=1025"],
        2,
        "--loading_threads: should be at most 1024. Received: 1025",
    ),
    "embedding by a batch beyond 64 bits": (
        [*EMBED, f"--batch_size={2**63}"],
        2,
        "--batch_size: should be at most 9223372036854775807. Received",
    ),
    "evaluating by a batch beyond 64 bits": (
        [*EVALUATE, f"--batch_size={2**63}"],
        2,
        "--batch_size: should be at most 9223372036854775807. Received",
    ),
    "learning_rate 0": ([*TRAIN, "--learning_rate=0"], 2, "--learning_rate.*above 0. Received: 0"),
    "learning_rate inf": ([*TRAIN, "--learning_rate=inf"], 2, "--learning_rate.*Received: inf"),
    "no iterations": ([*TRAIN, "--train_iterations=0"], 2, "--train_iterations.*Received: 0"),
    "an unknown optimizer": ([*TRAIN, "--optimizer=lamb"], 2, "--optimizer.*'lamb'.*adam.*sgd"),
    "an unknown schedule": ([*TRAIN, "--lr_schedule=linear"], 2, "--lr_schedule.*'linear'.*cosine"),
    "milestones in words": (
        [*TRAIN, "--lr_milestones=4,x"],
        2,
        "--lr_milestones: should be rising .*Received: 4,x",
    ),
    "milestones that fall": (
        [*TRAIN, "--lr_milestones=7,4"],
        2,
        "--lr_milestones.*rising.*Received: 7,4",
    ),
    "a milestone at 0": (
        [*TRAIN, "--lr_milestones=0,4"],
        2,
        "--lr_milestones.*rising.*Received: 0,4",
    ),
    "multistep without steps": (
        [*TRAIN, "--lr_schedule=multistep"],
        2,
        "multistep needs --lr_milestones, such as",
    ),
    "milestones of nothing": (
        [*TRAIN, "--lr_milestones=4,7"],
        2,
        "--lr_milestones is for --lr_schedule multistep. Received: exponential",
    ),
    "a factor of nothing": (
        [*TRAIN, "--lr_decay_factor=0.5"],
        2,
        "--lr_decay_factor is for --lr_schedule multistep",
    ),
    "a decay that grows": (
        [*TRAIN, "--lr_decay_factor=2"],
        2,
        "--lr_decay_factor.*between 0 and 1. Received: 2",
    ),
    "a warm-up below 0": (
        [*TRAIN, "--warmup_iterations=-1"],
        2,
        "--warmup_iterations.*Received: -1",
    ),
    "beta1 without a decay": (
        [*TRAIN, "--adam_beta1_decay", "--decay_start_iteration=-1"],
        2,
        "--adam_beta1_decay needs a --decay_start_iteration.*Received: -1",
    ),
    "beta1 without Adam": (
        [*TRAIN, "--adam_beta1_decay", "--optimizer=sgd"],
        2,
        "--adam_beta1_decay is for --optimizer adam or adamw. Received: sgd",
    ),
    "a momentum of 1": ([*TRAIN, "--momentum=1"], 2, "--momentum.*below 1. Received: 1"),
    "momentum with Adam": (
        [*TRAIN, "--momentum=0.9"],
        2,
        "--momentum is for --optimizer sgd or rmsprop. Received",
    ),
    "nesterov without momentum": (
        [*TRAIN, "--optimizer=sgd", "--nesterov"],
        2,
        "--nesterov needs a --momentum above 0",
    ),
    "weight decay with Adam": (
        [*TRAIN, "--weight_decay=0.1"],
        2,
        "--weight_decay is for --optimizer adamw or .*: adam",
    ),
    "weight decay that is nan": (
        [*TRAIN, "--weight_decay=nan"],
        2,
        "--weight_decay.*Received: nan",
    ),
    "adamw without weight decay": (
        [*TRAIN, "--optimizer=adamw"],
        2,
        "adamw needs a --weight_decay above 0, such as",
    ),
    "clip_norm": ([*TRAIN, "--clip_norm=-1"], 2, "--clip_norm.*at least 0. Received: -1"),
    "freeze_body_iterations": (
        [*TRAIN, "--freeze_body_iterations=-1"],
        2,
        "--freeze_body_iterations.*Received: -1",
    ),
    "decay_start": (
        [*TRAIN, "--decay_start_iteration=-2"],
        2,
        "--decay_start_iteration.*-1 or.*Received: -2",
    ),
    "checkpoint_frequency": (
        [*TRAIN, "--checkpoint_frequency=-1"],
        2,
        "--checkpoint_frequency.*Received: -1",
    ),
    "keep_checkpoints": ([*TRAIN, "--keep_checkpoints=-1"], 2, "--keep_checkpoints.*Received: -1"),
    "image_frequency": ([*TRAIN, "--image_frequency=-1"], 2, "--image_frequency.*Received: -1"),
    "on_bad_image": ([*TRAIN, "--on_bad_image=ignore"], 2, "--on_bad_image.*'ignore'.*error.*skip"),
    "an unknown split": (
        [*TRAIN, "--train_set=split.csv"],
        1,
        "split.csv, line 2: split should be one of train, .*Received: 'trian'. Meant: train",
    ),
    "a box beyond its image": (
        [*TRAIN, "--train_set=box.csv"],
        1,
        "the box 1,1,99,9 of images/a.png is not within the image, which is 16 pixels wide and 24",
    ),
    "an empty camera": (
        [*TRAIN, "--train_set=camera.csv"],
        1,
        "camera.csv, line 3: camera is empty",
    ),
    "cameras without a column": (
        [*TRAIN, "--cameras=column"],
        1,
        "good.csv has no column camera",
    ),
    "groups without a column": (
        [*TRAIN, "--same_group_batches"],
        1,
        "--same_group_batches needs a column group, which good.csv lacks",
    ),
    "a first image that is missing, without a check of files": (
        [*TRAIN, "--train_set=missing.csv", "--no_file_check"],
        1,
        "1 of the 1 images of missing.csv are not in",
    ),
    "weights of one set": (
        [*TRAIN, "--set_weights", "1"],
        2,
        "--set_weights is for several files of --train_set. Received one: good.csv",
    ),
    "one set twice": (
        [*TRAIN, "--train_set", "good.csv", "good.csv"],
        2,
        "--train_set should name each file once",
    ),
    "a seed below 0": ([*TRAIN, "--seed=-1"], 2, "--seed.*Received: -1"),
    "a seed beyond 32 bits": ([*TRAIN, "--seed=4294967296"], 2, "--seed.*Received: 4294967296"),
    "an unknown cache": ([*TRAIN, "--cache=disk"], 2, "--cache.*'disk'.*none.*encoded.*decoded"),
    "padding below 0": ([*TRAIN, "--pad_crop=-1"], 2, "--pad_crop.*at least 0. Received: -1"),
    "padding as wide as the input": (
        [*TRAIN, "--pad_crop=128"],
        2,
        "--pad_crop .*less than .*256 by 128.*Received: 128",
    ),
    "circle by blocks": (
        [*TRAIN, "--loss=circle", "--metric=cityblock"],
        2,
        "--loss circle compares by cosine. Received: --metric cityblock",
    ),
    "smoothing of nothing": (
        [*TRAIN, "--label_smoothing=0.3"],
        2,
        "--label_smoothing is for --id_loss_w",
    ),
    "padding and cropping": (
        [*TRAIN, "--pad_crop=4", "--crop_augment"],
        2,
        "--pad_crop 4 and --crop_augment.*one of",
    ),
    "jitter beyond 1": (
        [*TRAIN, "--color_jitter=1.5"],
        2,
        "--color_jitter.*from 0 to 1. Received: 1.5",
    ),
    "a probability in percent": (
        [*TRAIN, "--random_erasing=50"],
        2,
        "--random_erasing.*from 0 to 1. Received: 50",
    ),
    "crops higher than the image": (
        [*TRAIN, "--crop_augment", "--net_input_height=300"],
        2,
        "--net_input_height 300 is more than --pre_crop_height 288",
    ),
    "crops wider than the image": (
        [*TRAIN, "--crop_augment", "--pre_crop_width=100"],
        2,
        "--net_input_width 128 is more than --pre_crop_width 100",
    ),
    "an empty CSV": ([*TRAIN, "--train_set=empty.csv"], 1, "empty.csv is empty"),
    "a CSV of one column": (
        [*TRAIN, "--train_set=one.csv"],
        1,
        "one.csv, line 2: should be two columns.*'0002'",
    ),
    "a CSV of three columns": (
        [*TRAIN, "--train_set=three.csv"],
        1,
        "three.csv, line 1: .*two columns",
    ),
    "a CSV with a header of other names": (
        [*TRAIN, "--train_set=header.csv"],
        1,
        "1 of the 5 images.*: file. .*remove the header.*name its columns pid,fid",
    ),
    "a CSV that is an image": ([*TRAIN, "--train_set=images/a.png"], 1, "a.png is no CSV in UTF-8"),
    "a CSV with an open quote": ([*TRAIN, "--train_set=quote.csv"], 1, "quote.csv is no CSV"),
    "images that are missing": (
        [*TRAIN, "--train_set=missing.csv"],
        1,
        r"4 of the 4 .*: m0, m1, m2, \.\.\.",
    ),
    "images outside of the root": (
        [*TRAIN, "--train_set=outside.csv"],
        1,
        "2 of the 4 .*not below.*--allow_any_path",
    ),
    "P beyond the pids": ([*TRAIN, "--batch_p=3"], 1, "--batch_p 3 is more than the 2 pids"),
    "P beyond the pids, of which some would be held out": (
        [*TRAIN, "--batch_p=3", "--val_pids=0.5"],
        1,
        "--val_pids 0.5 leaves 0 pids to train on",
    ),
    "file names without a camera": (
        [*TRAIN, "--cameras=duke"],
        1,
        "--cameras duke: .*PID_cC_.*Received: 'a.png'",
    ),
    "file names that do not match": (
        [*TRAIN, r"--cameras=c(\d)"],
        1,
        r"--cameras c\(.d\) not found.*'a.png'",
    ),
    "a directory in use": ([*TRAIN, "--experiment_root=exp"], 1, "exp is not empty.*--resume"),
    "a directory that is a file": ([*TRAIN, "--experiment_root=good.csv"], 1, "good.csv is a file"),
    "a directory below a file": (
        [*TRAIN, "--experiment_root=good.csv/exp"],
        1,
        "cannot be written",
    ),
    "a directory of another training": (
        [*TRAIN, "--experiment_root=locked"],
        1,
        "another training is running",
    ),
    "an initial checkpoint that is missing": (
        [*TRAIN, "--initial_checkpoint=no.ckpt"],
        1,
        "no.ckpt",
    ),
    "an initial checkpoint that is none": (
        [*TRAIN, "--initial_checkpoint=good.csv"],
        1,
        "good.csv",
    ),
    "resuming nothing": ([*RESUME, "--experiment_root=images"], 1, "args.json does not exist"),
    "resuming what is no JSON": (
        [*RESUME, "--experiment_root=no_json"],
        1,
        "args.json cannot be read as JSON",
    ),
    "resuming with a bad value": (
        [*RESUME, "--experiment_root=bad_value"],
        1,
        "args.json.*batch_p.*Received: 0",
    ),
    "resuming with an unknown net": (
        [*RESUME, "--experiment_root=bad_net"],
        1,
        "args.json.*model_name.*Available",
    ),
    "resuming with a net by a path": (
        [*RESUME, "--experiment_root=path_net"],
        1,
        "args.json.*model_name.*Available",
    ),
    "resuming without a data set": (
        [*RESUME, "--experiment_root=no_set"],
        1,
        "args.json names no train_set. Add it",
    ),
    "resuming with a set that is no path": (
        [*RESUME, "--experiment_root=list_set"],
        1,
        "train_set should be a path",
    ),
    "resuming with a set that was moved": (
        [*RESUME, "--experiment_root=moved"],
        1,
        "moved.csv.*train_set.*args.json",
    ),
    "an abbreviated flag": ([*TRAIN, "--exp=3"], 2, "unrecognized arguments: --exp=3"),
    "too many iterations": (
        [*TRAIN, "--train_iterations=100000000000"],
        2,
        "--train_iterations.*2147483647",
    ),
    "a name that is too long": (
        [*TRAIN, f"--experiment_root={'x' * 300}"],
        1,
        "cannot use .*x: File name too long",
    ),
    "results into a device": ([*EVALUATE, "--filename=/dev/null"], 2, "--filename.*regular file"),
    "results into an experiment's flags": (
        [*EVALUATE, "--filename=exp/args.json"],
        2,
        "file of another kind.*args.json",
    ),
    "embeddings into an experiment's flags": (
        ["embed", "--experiment_root=exp", "--dataset=good.csv", "--filename=args.json"],
        1,
        "file of another kind.*args.json",
    ),
    "images of an experiment that was moved": (
        ["embed", "--experiment_root=moved_images", "--dataset=good.csv"],
        1,
        "4 of the 4 .*--image_root is that of moved_images/args.json",
    ),
    "resuming with sizes that do not fit": (
        [*RESUME, "--experiment_root=sizes"],
        1,
        "in sizes/args.json: --net_input_w",
    ),
    "resuming with a flag that does not fit": (
        [*RESUME, "--experiment_root=exp", "--early_stop=3"],
        1,
        "in exp/args.json, with --early_stop as given here: --early_stop has no effect",
    ),
    "resuming with a null": (
        [*RESUME, "--experiment_root=null"],
        1,
        "batch_p should have a value. Received: null",
    ),
    "resuming without a checkpoint": (
        [*RESUME, "--experiment_root=exp"],
        1,
        "no checkpoint in exp",
    ),
    "embedding nothing": (["embed", "--experiment_root=exp"], 2, "required.*--dataset"),
    "embedding without an experiment": ([*EMBED, "--experiment_root=images"], 1, "args.json"),
    "embedding a CSV that is missing": (
        [*EMBED, "--dataset=nowhere.csv"],
        2,
        "--dataset.*nowhere.csv",
    ),
    "embedding images that are missing": (
        [*EMBED, "--dataset=missing.csv"],
        1,
        "4 of the 4 images of missing.csv",
    ),
    "flips without aggregator": (
        [*EMBED, "--flip_augment"],
        2,
        "--aggregator: needed.*mean or normalized_mean",
    ),
    "five crops without aggregator": ([*EMBED, "--crop_augment=five"], 2, "--aggregator: needed"),
    "an aggregator of nothing": (
        [*EMBED, "--aggregator=mean"],
        2,
        "--aggregator: mean has nothing to aggregate",
    ),
    "an unknown aggregator": (
        [*EMBED, "--flip_augment", "--aggregator=median"],
        2,
        "'median'.*normalized_mean",
    ),
    "an unknown crop": ([*EMBED, "--crop_augment=six"], 2, "--crop_augment.*'six'.*avgpool"),
    "embedding without a checkpoint": ([*EMBED], 1, "no checkpoint in exp"),
    "embedding into nowhere": ([*EMBED, "--filename=no/where.h5"], 1, "--filename.*does not exist"),
    "embedding by an unknown strategy": (
        [*EMBED, "--strategy=two"],
        2,
        "--strategy.*'two'.*mirrored.*multi_worker",
    ),
    "embedding with workers of no job": (
        [*EMBED, "--strategy=multi_worker"],
        1,
        "TF_CONFIG.*leave --strategy out",
    ),
    "a projector's folder that leads out": (
        [*EMBED, "--projector", "--filename=...h5"],
        1,
        r"--projector makes a folder .*Received: '\.\.'\. Give another --filename",
    ),
    "a file of a name that is too long": (
        [*EMBED, f"--filename={'x' * 256}"],
        1,
        "--filename: its name should have at most 255 bytes",
    ),
    "a projector's file that is none": (
        [*EMBED, "--experiment_root=bad_projector", "--projector"],
        1,
        "projector_config.pbtxt is no configuration of TensorBoard's projector.*Remove or repair it",
    ),
    "evaluating nothing": (["evaluate"], 2, "required.*--excluder.*--query_dataset"),
    "an unknown excluder": (
        [*EVALUATE, "--excluder=all"],
        2,
        "'all' in excluders/. Available: cameras, cuhk03, diagonal",
    ),
    "embeddings that are none": ([*EVALUATE, "--query_embeddings=good.csv"], 1, "good.csv"),
    "too few embeddings": ([*EVALUATE, "--query_embeddings=few.h5"], 1, "few.h5.*3.*4"),
    "embeddings of two sizes": (
        [*EVALUATE, "--query_embeddings=wide.h5"],
        1,
        "dimension.*5 in wide.h5, 2 in good.h5",
    ),
    "embeddings that are not finite": ([*EVALUATE, "--query_embeddings=nan.h5"], 1, "nan.h5.*row"),
    "names without a camera": ([*EVALUATE, "--excluder=market1501"], 1, "a.png.*diagonal"),
    "multi-query without cameras": (
        [*EVALUATE, "--multi_query=mean"],
        1,
        "--excluder diagonal reads no cameras",
    ),
    "an unknown pooling": ([*EVALUATE, "--multi_query=sum"], 2, "--multi_query.*'sum'.*mean.*max"),
    "expansion by nothing": (
        [*EVALUATE, "--query_expansion=1"],
        2,
        "--query_expansion: .*at least 2. Received: 1",
    ),
    "an alpha in words": (
        [*EVALUATE, "--query_expansion", "--query_expansion_alpha=x"],
        2,
        "_alpha.*Received: x",
    ),
    "an alpha of no expansion": (
        [*EVALUATE, "--query_expansion_alpha=1"],
        2,
        "_alpha: has no effect without",
    ),
    "re-ranking by no neighbour": (
        [*EVALUATE, "--rerank", "--rerank_k1=0"],
        2,
        "--rerank_k1.*Received: 0",
    ),
    "a k2 beyond k1": (
        [*EVALUATE, "--rerank", "--rerank_k2=99"],
        2,
        "--rerank_k2: .*at most .*Received: 99",
    ),
    "a lambda of nan": (
        [*EVALUATE, "--rerank", "--rerank_lambda=nan"],
        2,
        "--rerank_lambda: .*Received: nan",
    ),
    "a k1 of no re-ranking": (
        [*EVALUATE, "--rerank_k1=30"],
        2,
        "--rerank_k1: has no effect without --rerank",
    ),
    "a ROC of no file": ([*EVALUATE, "--roc"], 2, "--roc: has no effect without --filename"),
    "a report without images": (
        [*EVALUATE, "--report=new"],
        2,
        "--image_root: needed with --report",
    ),
    "images without a report": (
        [*EVALUATE, "--image_root=images"],
        2,
        "--image_root: has no effect without --report",
    ),
    "activations without a report": (
        [*EVALUATE, "--activations=exp"],
        2,
        "--activations: has no effect without",
    ),
    "any path without a report": (
        [*EVALUATE, "--allow_any_path"],
        2,
        "--allow_any_path: has no effect without",
    ),
    "a report into nowhere": (
        [*REPORT, "--report=no/where"],
        2,
        "--report.*does not exist: create it first",
    ),
    "a report into a file": (
        [*REPORT, "--report=good.csv"],
        2,
        "--report.*is a file. Received: good.csv",
    ),
    "a report of missing images": (
        [*REPORT, "--gallery_dataset=missing.csv"],
        1,
        "4 of the 4 images of missing.csv",
    ),
    "a report of images outside": (
        [*REPORT, "--query_dataset=outside.csv"],
        1,
        "not below.*--allow_any_path",
    ),
    "activations of nothing": (
        [*REPORT, "--activations=nowhere"],
        2,
        "--activations.*existing directory.*nowhere",
    ),
    "activations of no experiment": (
        [*REPORT, "--activations=images"],
        1,
        "images/args.json does not exist",
    ),
    "activations without a checkpoint": ([*REPORT, "--activations=exp"], 1, "no checkpoint in exp"),
    "results into nowhere": (
        [*EVALUATE, "--filename=no/where.json"],
        2,
        "--filename.*does not exist",
    ),
}


@pytest.fixture(scope="module")
def place(dataset, tmp_path_factory):
    """A directory with the good and the bad things that CASES name; one training has `locked`."""
    root = tmp_path_factory.mktemp("bad_input")
    (root / "images").mkdir()
    fids = [f"{letter}.png" for letter in "abcd"]
    for fid, source in zip(fids, dataset.fids, strict=False):
        (root / "images" / fid).write_bytes((dataset.root / source).read_bytes())
    good = [f"000{1 + number // 2},{fid}" for number, fid in enumerate(fids)]
    csvs = {
        "good": good,
        "empty": [],
        "one": [good[0], "0002"],
        "three": ["0001,a.png,1"],
        "header": ["id,file", *good],
        "split": ["pid,fid,split", "0001,a.png,trian"],
        "box": ["pid,fid,x1,y1,x2,y2", "1,a.png,1,1,99,9", "2,b.png,,,,"],
        "camera": ["pid,fid,camera", "1,a.png,1", "2,b.png,"],
        "quote": ['0001,"a.png'],
        "missing": [f"000{number // 2},m{number}" for number in range(4)],
        "outside": [*good[:2], "0002,../good.csv", f"0002,{root}/images/a.png"],
    }
    for name, lines in csvs.items():
        (root / f"{name}.csv").write_text("".join(f"{line}\n" for line in lines))
    embs = np.arange(8, dtype=np.float32).reshape(4, 2)
    for name, emb in {
        "good": embs,
        "few": embs[:3],
        "wide": np.ones((4, 5), np.float32),
        "nan": np.where(embs == 3, np.nan, embs),
    }.items():
        with h5py.File(root / f"{name}.h5", "w") as file:
            file["emb"] = emb
    with contextlib.chdir(root):
        args = vars(
            flags.make_parser("x").parse_args([flag for flag in TRAIN if flag.startswith("--")])
        )
    changes = {
        "exp": {},
        "no_set": {"train_set": None},
        "list_set": {"train_set": [1]},
        "moved": {"train_set": "moved.csv"},
        "bad_value": {"batch_p": 0},
        "null": {"batch_p": None},
        "sizes": {"crop_augment": True, "net_input_width": 999},
        "moved_images": {"image_root": "exp"},
        "bad_net": {"model_name": "a"},
        "bad_pooling": {"model_name": "lunet", "pooling": "gem"},
        "path_net": {"model_name": "../x"},
        "bad_projector": {},
    }
    for name, change in changes.items():
        (root / name).mkdir()
        files.write_json(root / name / "args.json", args | change)
    (root / "bad_projector" / "projector_config.pbtxt").write_text("embeddings {")
    (root / "no_json").mkdir()
    (root / "no_json" / "args.json").write_text("{")
    with folder.lock(root / "locked"):
        yield root


def contents(root):
    return {path: path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_its_words_and_writes_nothing(case, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (command, *argv), exit_code, words = CASES[case]
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *argv])
    before = contents(place)
    with pytest.raises(SystemExit) as end:
        common.run(MAINS[command].main, MAINS[command].parse_args)
    # The interpreter prints a SystemExit's text on stderr and exits with 1.
    code, text = (
        (1, end.value.code)
        if isinstance(end.value.code, str)
        else (end.value.code, capsys.readouterr().err)
    )
    assert code == exit_code
    last_line = text.strip().splitlines()[-1]
    assert re.search(words, last_line), last_line
    assert contents(place) == before
