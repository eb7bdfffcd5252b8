import gzip
import io
import pickle
import tarfile
import zipfile

import pytest
from weights import refuse

from network import other_files, pretrained


def tar_of(name):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return content.getvalue()


def zip_of(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return content.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = {
    "resnet_v1_50_2016_08_28.tar.gz": (
        gzip.compress(tar_of("resnet_v1_50.ckpt")),
        "archive.*unpack",
    ),
    "resnet_v1_50.tar": (tar_of("resnet_v1_50.ckpt"), "archive.*unpack"),
    "resnet50.pth": (zip_of("archive/data.pkl", "archive/data/0"), "PyTorch.*not run here"),
    "old.pth": (pickle.dumps({"conv1.weight": [1.0]}), "a pickle.*not run here"),
    "page.ckpt": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "page.weights.h5": (b"<html>", "a web page"),
    "model.ckpt": (POINTER, "Git LFS.*git lfs pull"),
    "model.keras": (POINTER, "Git LFS.*git lfs pull"),
    "empty.ckpt": (b"", "an empty file"),
    "weights.zip": (zip_of("model.ckpt"), "a zip archive: unpack"),
    "frozen.pb": (b"\n\x0c\n\x06images", "frozen graph"),
    "train.csv": (b"0001,a.jpg\n", "text"),
    "embs.npy": (b"\x93NUMPY\x01\x00", "NumPy"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named(tmp_path, name):
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    refuse(
        lambda: pretrained.load_net(tmp_path / name, "lunet_narrow", {}),
        f"cannot read the .*{name}: it is .*{words}",
    )


def test_a_saved_model_is_named(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    refuse(lambda: pretrained.load_net(tmp_path, "lunet_narrow", {}), "it is a SavedModel")


def test_what_may_be_weights_is_not_named(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"\x00\x00\x08global_step")
    assert other_files.name_of(tmp_path / "x.ckpt") is None
    assert other_files.name_of(tmp_path) is None
    assert other_files.name_of(tmp_path / "nowhere") is None
