import itertools

import numpy as np
import pytest

import common

# Of each form: person, camera, fid.
MARKET = [
    ("0001", "1", "query/0001_c1s1_001051_00.jpg"),
    ("0001", "1", "bounding_box_test/0001_c1s6_011741_02.jpg"),  # another sequence, another folder
    ("0001", "2", "0001_c2s1_000301_00.jpg"),
    ("1", "1", "1_c1s1_000001_00.jpg"),  # leading zeros matter
    ("0002", "1", "0001_c1s1/0002_c1s1_000001_00.jpg"),  # folders do not
    ("0002", "12", "0002_c12s1_000001_00.jpg"),
    ("0000", "1", "0000_c1s1_000001_01.jpg"),
    ("-1", "3", "-1_c3s1_000001_01.jpg"),
    ("Ann Lee_2", "1", "Ann Lee_2_c1s1_x.png"),
]
DUKE = [
    ("0005", "2", "0005_c2_f0046985.jpg"),
    ("0005", "2", "gallery/0005_c2_f0047105.jpg"),
    ("0005", "5", "0005_c5_f0051261.jpg"),
    ("0006", "2", "0005_c2_f/0006_c2_f0046182.jpg"),
    ("-1", "2", "-1_c2_f0000001.jpg"),
]
MSMT17 = [
    ("0000", "01", "test/0000/0000_000_01_0303morning_0015_0.jpg"),
    ("0000", "01", "0000_031_01_0302noon_0015_1.jpg"),
    ("0000", "14", "0000_031_14_0302noon_0015_1_ex.jpg"),
    ("0001", "01", "test/0000/0001_000_01_0303morning_0015_0.jpg"),
]
CUHK03 = [
    ("0001", "1", "labeled/query/0001_c1_1.png"),
    ("0001", "1", "0001_c1_2.png"),
    ("0001", "2", "0001_c2_6.png"),
    ("0002", "1", "0002_c1_1.png"),
]
VERI776 = [
    ("0002", "002", "image_query/0002_c002_00030600_0.jpg"),
    ("0002", "002", "image_test/0002_c002_00030605_1.jpg"),
    ("0002", "020", "0002_c020_00030600_0.jpg"),
    ("0003", "002", "0003_c002_00030600_0.jpg"),
]
IMAGES = {
    "market1501": MARKET,
    "duke": DUKE,
    "msmt17": MSMT17,
    "cuhk03": CUHK03,
    "veri776": VERI776,
}


def excluder(name, gallery_fids):
    return common.load_plugin("excluders", name).Excluder(gallery_fids)


@pytest.mark.parametrize("name, images", IMAGES.items())
def test_same_person_in_the_same_camera_and_junk_are_ignored(name, images):
    fids = [fid for *_, fid in images]
    for size in range(1, len(images) + 1):
        ignored = excluder(name, fids[:size])(fids)
        assert ignored.dtype == bool
        assert ignored.shape == (len(fids), size)
        for (q, (q_pid, q_camera, _)), (g, (g_pid, g_camera, _)) in itertools.product(
            enumerate(images), enumerate(images[:size])
        ):
            assert ignored[q, g] == (g_pid == "-1" or (q_pid, q_camera) == (g_pid, g_camera))


@pytest.mark.parametrize("name, images", IMAGES.items())
def test_junk_is_what_is_ignored_for_every_query(name, images):
    junk = excluder(name, [fid for *_, fid in images]).junk
    assert junk.dtype == bool and junk.tolist() == [pid == "-1" for pid, *_ in images]


def test_cameras_by_column():
    gallery = [("1", "a"), ("1", "b"), ("2", "a"), ("-1", "a"), ("2", "-1"), ("0", "1")]
    by_column = excluder("cameras", gallery)
    np.testing.assert_array_equal(
        by_column([("1", "a"), ("2", "b"), ("3", "a")]),
        np.array([[1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 0]], bool),
    )
    assert by_column.junk.tolist() == [False, False, False, True, True, False]
    assert by_column.keys(gallery[:2]) == gallery[:2]


def test_junk_of_several_sets_is_junk():
    pids = ["1:-1", "12:-1", "-1", "1:1", "a:-1", "1:0", ":-1"]
    found = excluder("cameras", [(pid, "a") for pid in pids]).junk
    assert found.tolist() == [True, True, True, False, False, False, False]


def test_diagonal_ignores_the_query_itself():
    gallery = ["a/1.jpg", "b/1.jpg", "-1_c1s1_0_0.jpg", "a/1.jpg"]
    ignored = excluder("diagonal", gallery)(["b/1.jpg", "1.jpg", "a/1.jpg"])
    assert ignored.dtype == bool
    np.testing.assert_array_equal(
        ignored, np.array([[0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], bool)
    )


def test_diagonal_knows_a_file_under_another_name():
    ignored = excluder("diagonal", ["a/1.jpg", "./b//1.jpg", "a/2.jpg"])
    np.testing.assert_array_equal(ignored(["./a/1.jpg", "b/1.jpg"]), [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("name, good", [(name, images[0][-1]) for name, images in IMAGES.items()])
@pytest.mark.parametrize(
    "bad", ["img_17.jpg", "0001.jpg", "_c1s1_0.jpg", "0001_c1", "0001_cxs1_0.jpg", "dir/", ""]
)
def test_a_fid_of_another_form_is_named(bad, name, good):
    for call in (lambda: excluder(name, [good, bad]), lambda: excluder(name, [good])([good, bad])):
        with pytest.raises(common.UserError, match="PID_.*C.*0001.*Received: .*diagonal") as error:
            call()
        assert repr(bad) in str(error.value)


def test_the_forms_are_told_apart():
    with pytest.raises(common.UserError, match="PID_cCsS_"):
        excluder("market1501", [DUKE[0][-1]])
    with pytest.raises(common.UserError, match="PID_cC_"):
        excluder("duke", [MARKET[0][-1]])
    with pytest.raises(common.UserError, match="PID_NUMBER_C_"):
        excluder("msmt17", [VERI776[0][-1]])


def test_the_excluders_there_are():
    assert {"diagonal", "cameras", *IMAGES} <= set(common.plugin_names("excluders"))
    names = "cameras, cuhk03, diagonal, duke, market1501, msmt17, veri776"
    with pytest.raises(common.UserError, match=names):
        common.load_plugin("excluders", "_camera")
