"""Weights from Hugging Face, from a cache of its format that a test writes; no connection is made."""

import sys

import huggingface_hub.constants
import huggingface_hub.errors
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file
from weights import refuse

import train
from network import hub, pretrained

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "timm/tiny.in1k"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of the cache. The hub is out of reach."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put(cache, file, tensors, repository=REPOSITORY):
    """As huggingface_hub keeps a file: a snapshot's link to a blob, and what main is."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    blob = folder / "blobs" / file.replace("/", "-")
    link = folder / "snapshots" / COMMIT / file
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, blob)
    link.symlink_to(blob)
    (folder / "refs" / "main").write_text(COMMIT)


def variables():
    return {"net/conv/biases": keras.Variable(np.zeros(4, np.float32))}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hf:timm/x.in1k", ("timm/x.in1k", "model.safetensors", "main")),
        ("hf:a/b:net.safetensors", ("a/b", "net.safetensors", "main")),
        ("hf:a/b@v1.2:sub/net.bin", ("a/b", "sub/net.bin", "v1.2")),
        ("hf:a/b@refs/pr/3", ("a/b", "model.safetensors", "refs/pr/3")),
    ],
)
def test_what_a_name_means(text, expected):
    assert hub.parse(text) == expected


@pytest.mark.parametrize("text", ["hf:", "hf:timm", "hf:a/b/c", "hf:a/b:", "hf:a/b:../x", "hf:ä/b"])
def test_what_names_nothing_is_told(text):
    refuse(lambda: hub.fetch(text), f"hf:owner/name.*Received: {text}$")


@pytest.mark.parametrize(
    "name, file",
    [("", "model.safetensors"), (":a/net.safetensors", "a/net.safetensors"), (f"@{COMMIT}", "")],
)
def test_weights_are_loaded_from_the_cache(cache, name, file):
    bias = np.array([1, 2, 3, 4], np.float32)
    put(cache, file or "model.safetensors", {"backbone.conv.bias": bias, "fc.bias": bias})
    wanted = variables()
    told = pretrained.load_net(f"hf:{REPOSITORY}{name}", "lunet_narrow", wanted)
    assert told.taken == ["net/conv/biases"] and told.passed_over == ["fc.bias"]
    np.testing.assert_array_equal(wanted["net/conv/biases"], bias)


def test_without_a_connection_what_to_fetch_is_told(cache):
    address = f"https://huggingface.co/{REPOSITORY}/resolve/main/net.safetensors"
    refuse(
        lambda: pretrained.load_net(f"hf:{REPOSITORY}:net.safetensors", "lunet", variables()),
        f"cannot fetch hf:{REPOSITORY}:net.safetensors: .*not in the cache.*fetch {address}, and",
        f"models--timm--tiny.in1k from there to {cache}",
    )


@pytest.mark.parametrize(
    "name, words",
    [
        ("RepositoryNotFoundError", "no such repository, or it is private"),
        ("GatedRepoError", "has to grant access"),
        ("RevisionNotFoundError", "no such revision"),
        ("RemoteEntryNotFoundError", "no such file"),
    ],
)
def test_what_the_hub_answers_is_told(name, words, monkeypatch):
    kind = getattr(huggingface_hub.errors, name)

    def download(local_files_only=False, **where):
        error = huggingface_hub.errors.LocalEntryNotFoundError("x") if local_files_only else None
        raise error or kind.__new__(kind, "x")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    refuse(lambda: hub.fetch("hf:a/b"), words)


def test_what_is_wrong_with_the_data_is_told_before_anything_is_fetched(
    dataset, tmp_path, monkeypatch
):
    fetched = []
    monkeypatch.setattr(hub, "fetch", fetched.append)
    flags = [f"--experiment_root={tmp_path / 'exp'}", f"--train_set={dataset.csv}"]
    flags += [f"--image_root={dataset.root}", "--initial_checkpoint=hf:a/b", "--batch_p=7"]
    call = train.parse_args(flags)
    refuse(lambda: train.main(call), "--batch_p 7 is more than the 6 pids")
    assert not fetched and not (tmp_path / "exp").exists()


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    refuse(lambda: hub.fetch("hf:a/b"), "hf:a/b takes the package huggingface_hub.*pip install")
