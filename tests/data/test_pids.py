import dataclasses

import pytest

import train
from data import pids
from experiment.flags import Settings
from runtime.terminal import setup_logging


@pytest.mark.parametrize(
    "names, expected",
    [
        (["1", "0001", "1.0", "+1", "1."], ["'1' = '0001' = '1.0' = '+1' = '1.'"]),
        (
            ["1", "0001 ", " 0002", "2", "\t3", "3"],
            ["'1' = '0001 '", "' 0002' = '2'", "'\\t3' = '3'"],
        ),
        (["0001", "\ufeff0001"], ["'0001' = '\\ufeff0001'"]),  # a BOM within a joined file
        (["a\u200bb", "ab"], ["'a\\u200bb' = 'ab'"]),
        (["0", "0000", "0.0"], ["'0' = '0000' = '0.0'"]),
        (["-1", "-1.0", "-01"], ["'-1' = '-1.0' = '-01'"]),
        (["1.50", "1.5", "01.5"], ["'1.50' = '1.5' = '01.5'"]),
        (["Anna  B", "anna b", "Anna\xa0B"], ["'Anna  B' = 'anna b' = 'Anna\\xa0B'"]),
        (["\uff11", "1"], ["'\\uff11' = '1'"]),  # the full-width digit
        # One letter, and e with an accent, look the same: their codes are shown.
        (["\u00e9", "e\u0301"], ["'\\xe9' = 'e\\u0301'"]),
    ],
)
def test_pids_that_look_alike(names, expected):
    assert pids.look_alikes(names * 2) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["1", "10", "100", "1.01", "1.001", "-1", "11"],
        ["1e2", "100", "0x1", "1a", "01a", "1_0"],
        ["12345678901234567890123456789012345678901", "12345678901234567890123456789012345678902"],
        ["1.2.3", "1.2", "a.0", "a", "", "."],
        ["0001_c1", "0001_c2", "c1_0001"],
    ],
)
def test_pids_that_differ(names):
    assert pids.look_alikes(names) == []


def test_pids_that_read_like_a_missing_value():
    names = ["1", "nan", "NaN ", "NAN", "nan", "<NA>", " ", "nancy", "none of them", "NA", "0"]
    assert pids.read_like_missing(names) == [
        "'nan' (2 images)",
        "'NaN ' (1 images)",
        "'NAN' (1 images)",
        "'<NA>' (1 images)",
        "' ' (1 images)",
        "'NA' (1 images)",
    ]


def numbered(*counts):
    """So many images of pid 0, of pid 1, ..."""
    return [str(pid) for pid, count in enumerate(counts) for _ in range(count)]


@pytest.mark.parametrize(
    "counts, K, told",
    [
        ([3, 4, 4, 4], 4, "1 of the 4 pids (25%) have fewer than 4 images, 0 of them a single"),
        ([3, 4, 4, 4, 4], 4, None),  # less than a quarter
        ([4, 4, 4, 4], 4, None),
        ([1, 1, 1], 4, "3 of the 3 pids (100%) have fewer than 4 images, 3 of them a single"),
        ([1, 1, 9, 9], 2, "2 of the 4 pids (50%) have fewer than 2 images, 2 of them a single"),
        ([1, 1, 1, 9], 1, "3 of the 4 pids (75%) have fewer than 2 images, 3 of them a single"),
        ([2, 2, 2], 1, None),
        ([2, 2, 2], 2, None),
        ([1], 4, "1 of the 1 pids"),
    ],
)
def test_a_set_that_teaches_copies_is_warned_about(counts, K, told):
    lines = pids.few_images(numbered(*counts), K)
    assert len(lines) == (told is not None)
    assert told is None or lines[0].startswith(told)


@pytest.mark.parametrize(
    "few, told", [(0, None), (2, None), (3, "3 of the 9 pids (33%) have fewer images than")]
)
def test_pids_that_are_drawn_more_often_than_they_have_images_are_warned_about(few, told):
    lines = pids.often_drawn(few, 9)
    assert len(lines) == (told is not None)
    assert told is None or (lines[0].startswith(told) and "a smaller --batch_size." in lines[0])


def test_each_kind_is_one_line_with_the_first_few():
    names = [f"{spelling}{n}" for n in range(9) for spelling in ("", "0", "00") for _ in range(4)]
    assert pids.warnings(numbered(4, 4), K=4) == []
    alike, missing, few = pids.warnings([*names, *["nan"] * 4, *numbered(*[1] * 20)], K=4)
    assert alike.startswith("pids that look alike but count as different (9 in all): '0' = ")
    assert alike.count("=") == 6 and "..." in alike and "'0' = '00' = '000'" in alike
    assert "'nan' (4 images)" in missing and "single" in few
    assert "\n" not in alike + missing + few


def test_the_start_of_a_training_warns(dataset, tmp_path, capsys):
    settings = Settings(
        experiment_root=str(tmp_path),
        train_set=str(dataset.csv),
        image_root=str(dataset.root),
        batch_p=2,
    )
    setup_logging("train")
    for K, count in ((4, 1), (2, 0)):  # the data set has 2 to 5 images of a pid
        train._load_data(dataclasses.replace(settings, batch_k=K), resuming=False)
        warned = capsys.readouterr().err.splitlines()
        assert len(warned) == count
        assert all("have fewer than 4 images" in line for line in warned)
