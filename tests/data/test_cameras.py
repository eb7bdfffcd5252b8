import argparse

import numpy as np
import pytest

import common
from data import cameras
from data.dataset import Dataset, ImageFiles, distinct_files

FIDS = {
    "market1501": {"query/0001_c1s1_001051_00.jpg": "1", "-1_c12s3_000001_01.jpg": "12"},
    "duke": {"gallery/0005_c2_f0047105.jpg": "2"},
    "msmt17": {
        "test/0000/0000_000_01_0303morning_0015_0.jpg": "01",
        "0001_000_14_0303noon_0015_0.jpg": "14",
    },
    "cuhk03": {"labeled/query/0001_c1_1.png": "1"},
    "veri776": {"image_test/0002_c002_00030605_1.jpg": "002"},
    r"cam(\d)": {"cam3/0001/a.png": "3", "b/cam4_x.png": "4"},
    r"^(in|out)doors/": {"indoors/1.jpg": "in", "outdoors/1.jpg": "out"},
}


def images(fids):
    return Dataset(["1"] * len(fids), list(fids))


@pytest.mark.parametrize("rule", FIDS)
def test_a_camera_is_read_from_the_fid(rule):
    assert cameras.rule(rule) == rule
    assert cameras.cameras_of(images(FIDS[rule]), rule) == list(FIDS[rule].values())


def test_every_pattern_is_an_excluder_and_is_tried_here():
    assert cameras.PATTERNS.keys() == FIDS.keys() - {r"cam(\d)", r"^(in|out)doors/"}
    assert cameras.PATTERNS.keys() <= set(common.plugin_names("excluders"))


def test_without_a_rule_there_are_no_cameras():
    assert cameras.cameras_of(images(["a.png"]), None) is None


@pytest.mark.parametrize(
    "rule", ["market1501", "duke", "msmt17", "cuhk03", "veri776", r"cam(\d)", r"c(\d)?"]
)
def test_the_first_fid_without_a_camera_is_named(rule):
    good = FIDS.get(rule, ["c1.png"])
    with pytest.raises(
        common.UserError, match=r"--cameras .*Received: 'cx/bad.jpg'.*leave --cameras out"
    ):
        cameras.cameras_of(images([*good, "cx/bad.jpg", "worse.jpg"]), rule)


def test_a_camera_is_read_from_the_column():
    data = Dataset(["1", "2"], ["a_c5s1_", "b"], "x.csv", cameras=["left", "right"])
    assert cameras.rule("column") == "column"
    assert list(cameras.cameras_of(data, "column")) == ["left", "right"]
    assert cameras.pids_and_cameras(data) == [("1", "left"), ("2", "right")]
    with pytest.raises(common.UserError, match="x.csv has no column camera. Give .*pid,fid,camera"):
        cameras.cameras_of(Dataset(["1"], ["a"], "x.csv"), "column")


@pytest.mark.parametrize(
    "text", ["", "market", "c(", r"c\d", r"(c)(\d)", "(c{9999999999})", "(" * 2000]
)
def test_what_is_no_rule(text):
    with pytest.raises(
        argparse.ArgumentTypeError, match="market1501, duke, .*one group, the camera. Received: "
    ):
        cameras.rule(text)


def test_files_have_the_cameras_that_a_rule_tells():
    data = Dataset(["1"] * 3, ["a_c5s1_1.png", "b.png", "c_c6s1_1.png"], cameras=["k", "l", "m"])
    assert cameras.files(data, "r", None).cameras is None
    assert list(cameras.files(data, "r", "column").cameras) == ["k", "l", "m"]
    files = cameras.files(data, "r", "market1501")
    assert list(files.cameras) == ["5", "", "6"] and list(files.select([2, 0]).cameras) == [
        "6",
        "5",
    ]
    assert list(files.paths) == ["r/a_c5s1_1.png", "r/b.png", "r/c_c6s1_1.png"]
    without = Dataset(["1"], ["a_c5s1_1.png"])
    assert list(cameras.files(without, "r", "column").cameras) == [""]
    assert cameras.numbers(["6", "", "5", "7"], {"5": 0, "6": 1}).tolist() == [1, -1, 0, -1]


def test_a_file_of_two_cameras_stays_two_images():
    parts = [ImageFiles(["a", "b"], cameras=np.array(list(each), object)) for each in ("kl", "km")]
    files, places = distinct_files([*parts, ImageFiles(["c"])])
    assert list(files.paths) == ["a", "b", "b", "c"] and list(files.cameras) == ["k", "l", "m", ""]
    assert places.tolist() == [0, 1, 0, 2, 3]
