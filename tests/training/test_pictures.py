import numpy as np
import pytest
from image_kinds import KINDS, encoded
from PIL import Image

from data.dataset import ImageFiles
from training import pictures


def test_triplets_on_a_number_line():
    emb = np.array([0.0, 4.0, 1.0, 2.0, 9.0])
    pids = ["a", "a", "b", "b", "c"]  # c has no second image and is no anchor
    dists = np.abs(emb[:, None] - emb)
    # Differences: 0: 4 - 1 = 3, 1: 4 - 2 = 2, 2: 1 - 1 = 0, 3: 1 - 2 = -1.
    assert pictures.hardest_triplets(pids, dists, 8) == [(0, 1, 2), (1, 0, 3), (2, 3, 0), (3, 2, 0)]
    assert pictures.hardest_triplets(pids, dists, 2) == [(0, 1, 2), (1, 0, 3)]


@pytest.mark.parametrize("seed", range(5))
def test_triplets_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, 5, 17)
    dists = rng.integers(0, 9, (17, 17)).astype(np.float32)  # with ties: the first counts
    expected = []
    for a in range(17):
        positives = [p for p in range(17) if pids[p] == pids[a] and p != a]
        negatives = [n for n in range(17) if pids[n] != pids[a]]
        if positives and negatives:
            p, n = (
                max(positives, key=lambda p: dists[a, p]),
                min(negatives, key=lambda n: dists[a, n]),
            )
            expected.append((a, p, n))
    expected.sort(key=lambda t: dists[t[0], t[2]] - dists[t[0], t[1]])
    assert pictures.hardest_triplets(pids, dists, 17) == expected


@pytest.mark.parametrize(
    "pids", [["a", "a"], ["a", "b"], ["a"]], ids=["no negative", "no positive", "one image"]
)
def test_a_batch_without_triplets(pids):
    dists = np.ones((len(pids), len(pids)))
    assert pictures.hardest_triplets(pids, dists, 8) == []
    assert pictures.draw_triplets(ImageFiles(["x.png"] * len(pids)), pids, dists).shape == (1, 1, 3)


COLORS = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)], np.uint8)


@pytest.fixture
def paths(tmp_path):
    """Four files of one colour each: the first is wide, the others are high."""
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    for number, (path, color) in enumerate(zip(paths, COLORS, strict=True)):
        Image.fromarray(np.tile(color, ((10, 40, 1) if number == 0 else (64, 32, 1)))).save(path)
    return paths


PIDS = ["a", "a", "b", "b"]
DISTS = np.array([[0, 9, 1, 2], [9, 0, 4, 3], [1, 2, 0, 5], [4, 3, 5, 0.0]])
TRIPLETS = [(0, 1, 2), (1, 0, 3), (2, 3, 0), (3, 2, 1)]  # the hardest first


def cells(picture, columns=3, rows=4):
    """The cards of a picture, [rows][columns]."""
    height = (len(picture) + 12) // rows
    return [
        np.split(picture[row * height : row * height + height - 12], columns, axis=1)
        for row in range(rows)
    ]


def where(card, color):
    """First and last row and column of a colour."""
    rows, columns = np.nonzero((card == color).all(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_anchor_positive_and_negative_stand_side_by_side_the_hardest_first(paths):
    picture = pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert pictures.hardest_triplets(PIDS, DISTS, 4) == TRIPLETS
    for row, triplet in zip(cells(picture), TRIPLETS, strict=True):
        for card, image in zip(row, triplet, strict=True):
            shown = [
                number for number in range(4) if (card == COLORS[number]).all(axis=2).sum() > 100
            ]
            assert shown == [image]


def test_images_keep_their_aspect_and_are_centred(paths):
    (wide, high, _), *_ = cells(pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS))
    assert where(wide, COLORS[0]) == (3 + 51, 3 + 76, 3, 3 + 103)  # 104 x 26 in 104 x 128
    assert where(high, COLORS[1]) == (3, 3 + 127, 3 + 20, 3 + 83)  # 64 x 128


def test_texts_tell_distance_pid_and_file(paths):
    def text(picture, row, column):
        return cells(picture)[row][column][136:]

    before = pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)
    other_dists = DISTS.copy()
    other_dists[0, 1] = 9.5  # of the first row's positive only
    after = pictures.draw_triplets(ImageFiles(paths), PIDS, other_dists)
    changed = [
        (r, c)
        for r in range(4)
        for c in range(3)
        if not np.array_equal(text(before, r, c), text(after, r, c))
    ]
    assert changed == [(0, 1)]
    after = pictures.draw_triplets(ImageFiles(paths), ["z", "z", "b", "b"], DISTS)
    changed = [
        (r, c)
        for r in range(4)
        for c in range(3)
        if not np.array_equal(text(before, r, c), text(after, r, c))
    ]
    assert changed == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (3, 2)]
    longer = [*paths[:3], paths[3].replace("3.png", "a" * 100 + "3.png")]
    with Image.open(paths[3]) as image:
        image.save(longer[3])
    after = pictures.draw_triplets(ImageFiles(longer), PIDS, DISTS)
    assert after.shape == before.shape and not np.array_equal(text(before, 1, 2), text(after, 1, 2))


@pytest.mark.parametrize("content", [None, b"", b"no image", "cut"])
def test_a_file_that_cannot_be_read_is_a_grey_field(paths, content):
    before = pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)
    with open(paths[3], "rb") as file:
        good = file.read()
    with open(paths[3], "wb") as file:
        file.write(good[: len(good) // 2] if content == "cut" else content or b"")
    missing = [*paths[:3], paths[3] + ".gone"] if content is None else paths
    picture = pictures.draw_triplets(ImageFiles(missing), PIDS, DISTS)
    assert picture.shape == before.shape
    for row, triplet in zip(cells(picture), TRIPLETS, strict=True):
        for card, image in zip(row, triplet, strict=True):
            assert (card[10:120, 10:90] == (0x90, 0x90, 0x90)).all() == (image == 3)


def test_all_kinds_of_images_are_drawn(tmp_path, paths):
    for number, mode in enumerate(["L", "RGBA", "P", "CMYK"]):
        paths[number] = str(tmp_path / f"{number}.{'jpg' if mode == 'CMYK' else 'png'}")
        Image.new("RGB", (20, 40), tuple(COLORS[0].tolist())).convert(mode).save(paths[number])
    for row, triplet in zip(
        cells(pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)), TRIPLETS, strict=True
    ):
        for card, image in zip(row, triplet, strict=True):
            color = [88, 88, 88] if image == 0 else COLORS[0]
            assert (
                np.abs(card[10:120, 30:80].mean(axis=(0, 1)) - color).max() < 5
            )  # palettes are dithered


def test_the_same_batch_gives_the_same_bytes(paths):
    drawn = [pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS).tobytes() for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("P, K, groups", [(3, 4, 3), (8, 4, 4), (5, 3, 5), (4, 20, 1), (2, 2, 2)])
def test_the_networks_input_is_shown_pixel_by_pixel(P, K, groups):
    images = np.random.default_rng(0).uniform(0, 255, (P * K, 6, 5, 3)).astype(np.float32)
    picture = pictures.network_input(images, K)
    columns = min(2, groups)
    assert picture.shape == (-(-groups // columns) * 18 - 12, columns * (K * 5 + 12) - 12, 3)
    for number in range(groups * K):
        group, place = divmod(number, K)
        top, left = group // columns * 18, group % columns * (K * 5 + 12) + place * 5
        np.testing.assert_array_equal(
            picture[top : top + 6, left : left + 5], np.rint(images[number])
        )


@pytest.mark.parametrize("count, shown", [(7, 4), (3, 3)])
def test_a_devices_part_of_a_batch_is_shown_as_far_as_it_goes(count, shown):
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        pictures.network_input(images, 4), np.concatenate(images[:shown], axis=1)
    )


def test_values_outside_of_a_byte_are_clipped():
    images = np.array([-3, 300, 0.4, 254.6], np.float32)[:, None, None, None] * np.ones(
        (1, 2, 1, 3), np.float32
    )
    picture = pictures.network_input(images, 4)
    assert picture[0, :, 0].tolist() == [0, 255, 0, 255]


def test_cards_show_what_the_network_is_given(paths):
    before = pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)
    for kind in ("BMP of 8 bits", "16-bit gray PNG", "WebP with alpha"):
        file, expected, _ = KINDS[kind]
        with open(paths[3], "wb") as target:
            target.write(file)
        changed = pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)
        with open(paths[3], "wb") as target:
            target.write(encoded(Image.fromarray(expected.astype(np.uint8)), "PNG"))
        same = pictures.draw_triplets(ImageFiles(paths), PIDS, DISTS)
        assert not np.array_equal(changed, before)
        np.testing.assert_array_equal(changed, same)


def test_a_name_of_two_lines_is_drawn_in_one():
    dists = np.array([[0, 2, 1], [2, 0, 1], [1, 1, 0]], float)
    picture = pictures.draw_triplets(ImageFiles(["a\nb\x1b.jpg"] * 3), ["1", "1", "2\n"], dists)
    same = pictures.draw_triplets(ImageFiles([r"a\nb\x1b.jpg"] * 3), ["1", "1", r"2\n"], dists)
    np.testing.assert_array_equal(picture, same)
