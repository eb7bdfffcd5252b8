import csv
import os
import threading

import numpy as np
import pandas
import pytest

from common import UserError
from data import dataset
from data.dataset import Dataset


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def loaded(path):
    """The rows of a data set."""
    data = dataset.load(path)
    return list(zip(data.pids, data.fids, strict=True))


def test_both_columns_are_kept_as_they_are_written(tmp_path):
    path = write(tmp_path / "a.csv", "0001,a b.jpg\n1,x#y.jpg\n-1,ü/é.png\nNA,null\n 1e5, nan \n")
    data = dataset.load(path)
    assert data.pids.tolist() == ["0001", "1", "-1", "NA", " 1e5"]
    assert data.fids.tolist() == ["a b.jpg", "x#y.jpg", "ü/é.png", "null", " nan "]
    assert data.path == str(path) and len(data) == 5


@pytest.mark.parametrize(
    "text",
    [
        "0001,a.jpg",
        "0001,a.jpg\n",
        "0001,a.jpg\r\n",
        "\ufeff0001,a.jpg\n",
        '"0001","a.jpg"\n\n',
        "\n0001,a.jpg\n",
        " \t\n0001,a.jpg\n\x0b\n",
    ],
    ids=["one line", "newline", "CRLF", "byte-order mark", "quotes", "blank lines", "spaces"],
)
def test_a_csv_in_the_shapes_that_programs_write(tmp_path, text):
    assert loaded(write(tmp_path / "a.csv", text)) == [("0001", "a.jpg")]


def test_a_comma_in_a_quoted_field(tmp_path):
    assert loaded(write(tmp_path / "a.csv", '7,"a,b.jpg"\n')) == [("7", "a,b.jpg")]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("1,a.jpg\n2\n", r"line 2: should be two columns.*'2'"),
        ("1,a.jpg\n\n2\n", r"line 3: should be two columns.*'2'"),
        ("1,a.jpg\n2,b.jpg,c\n", r"line 2: should be two columns.*'2,b.jpg,c'"),
        ("1,a.jpg,\n2,b.jpg,\n", r"line 1: should be two columns.*'1,a.jpg,'"),
        ("1,a.jpg\n2,\n", "line 2"),
        (",a.jpg\n", "line 1"),
        ("1,a.jpg\n2,\0;/b.jpg\n", r"line 2: the fid holds a NUL.*'\\x00;/b.jpg'"),
        ("pid,fid\n2,b\0.jpg\n", "line 2: the fid holds a NUL"),
        ('1,"a.jpg\n', "no CSV"),
        ('1,"a"b.jpg\n', "no CSV"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        dataset.load(write(tmp_path / "bad.csv", text))
    assert "bad.csv" in str(error.value)


def test_a_csv_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(UserError, match="nowhere.csv"):
        dataset.load(tmp_path / "nowhere.csv")
    (tmp_path / "image.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(UserError, match="no CSV in UTF-8"):
        dataset.load(tmp_path / "image.csv")


def strict_rows(path):
    """The rows as the csv module alone reads them; None where there is a fault or no row."""
    rows = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for row in csv.reader(file, strict=True):
                if len(row) == 2 and all(row):
                    rows.append(tuple(row))
                elif len(row) > 1 or "".join(row).strip():
                    return None
    except (csv.Error, UnicodeDecodeError):
        return None
    no_file = any("\0" in fid for _, fid in rows)
    return None if no_file else rows or None


WORDS = ["1", "01", "a b", "é", "日本", "NA", "#", "1e5", "-", "True", "\ufeff", "\u2028", "\x85"]
ODD = [",", '"', '""', " ", "\t", "\x0b", "\x1c", "\0", "\n", "\r", "\r\n", ",,", "\n\n", ";", "\\"]


def random_csv(rng):
    """Bytes that are mostly rows of pid,fid, with something odd in about half of the files."""
    oddness = rng.choice([0.0, 0.1, 0.4])
    newline = rng.choice(["\n", "\r\n", "\r"])

    def text():
        return "".join(rng.choice(ODD if rng.random() < oddness else WORDS, rng.integers(1, 3)))

    def field():
        return f'"{text()}"' if rng.random() < 0.2 else text()

    rows = [f"{field()},{field()}" for _ in range(rng.integers(0, 5))]
    content = newline.join(rows) + (newline if rng.random() < 0.7 else "")
    encoding = "utf-8-sig" if rng.random() < 0.1 else "utf-8"
    return content.encode(encoding) + (b"\xff" if rng.random() < 0.02 else b"")


def test_random_files_are_read_as_by_the_csv_module(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "random.csv"
    good = 0
    for _ in range(2000):
        path.write_bytes(random_csv(rng))
        expected = strict_rows(path)
        if expected is None:
            with pytest.raises(UserError, match="random.csv"):
                dataset.load(path)
        else:
            assert loaded(path) == expected, path.read_bytes()
            good += 1
    assert 500 < good < 1500


def test_some_rows_of_a_data_set():
    data = Dataset(pids=["1", "2", "3"], fids=["a", "b", "c"], path="a.csv")
    some = data.select(np.array([2, 0]))
    assert (some.pids.tolist(), some.fids.tolist(), some.path) == (
        ["3", "1"],
        ["c", "a"],
        data.path,
    )
    assert data.select(data.pids != "2").fids.tolist() == ["a", "c"]


def test_a_long_name_costs_its_own_memory_alone(tmp_path):
    rows = "".join(f"{row % 7},{row}.jpg\n" for row in range(1000))
    data = dataset.load(write(tmp_path / "a.csv", f"{rows}{'p' * 3000},{'f' * 3000}\n"))
    for column in (data.pids, data.fids, data.paths("root")):
        assert column.dtype == object and column.nbytes == 1001 * 8


def test_paths_are_those_below_the_root():
    data = Dataset(pids=["1", "2"], fids=["a/b.jpg", "/c.jpg"])
    assert data.paths("root").tolist() == ["root/a/b.jpg", "/c.jpg"]


def test_labels_are_places_in_the_sorted_order():
    labels = dataset.labels_of(["b", "a", "NA", "01", "é", "b", "1", "Z"])
    assert labels.tolist() == [5, 4, 2, 0, 6, 5, 1, 3] and labels.dtype == np.int64


# ------------------------------------------------------------------------- image files


def test_missing_images_are_counted_and_the_first_are_named(tmp_path):
    (tmp_path / "here.jpg").touch()
    dataset.check_images("a.csv", tmp_path, ["here.jpg"])
    fids = np.array(["here.jpg", "m1", "m2", "m3", "m4"], dtype=object)
    with pytest.raises(UserError, match=r"4 of the 5 images of a.csv .*: m1, m2, m3, \.\.\."):
        dataset.check_images("a.csv", tmp_path, fids)


@pytest.mark.parametrize("many", [16, 1000], ids=["listed", "asked for"])
def test_missing_images_are_named_in_their_order_by_many_threads(tmp_path, monkeypatch, many):
    fids = [f"{number}.jpg" for number in range(100)]
    for number in range(0, 100, 3):
        (tmp_path / fids[number]).touch()
    monkeypatch.setattr(dataset, "_CHUNK", 2)
    monkeypatch.setattr(dataset, "_MANY", many)
    monkeypatch.setattr(dataset, "first_few", " ".join)
    expected = " ".join(fid for number, fid in enumerate(fids) if number % 3)
    with pytest.raises(UserError, match=f"66 of the 100 .*: {expected}\\. File ids"):
        dataset.check_images("a.csv", tmp_path, fids)
    assert threading.active_count() == 1


def test_what_a_list_of_a_folder_shows_is_not_asked_for(tmp_path, monkeypatch):
    fids = [f"a/{number}.jpg" for number in range(40)] + ["./a/1.jpg", "b/1.jpg", "a/folder"]
    for folder in ("a", "b", "a/folder"):
        (tmp_path / folder).mkdir()
    for fid in fids[:40] + ["b/1.jpg"]:
        (tmp_path / fid).touch()
    (tmp_path / "a" / "2.jpg").unlink()
    (tmp_path / "a" / "2.jpg").symlink_to("nowhere")
    (tmp_path / "a" / "3.jpg").unlink()
    (tmp_path / "a" / "3.jpg").symlink_to("4.jpg")
    asked = ["a/2.jpg", "./a/1.jpg", "b/1.jpg", "a/folder"]
    assert dataset._not_listed(tmp_path, fids) == asked
    assert dataset._missing(tmp_path, fids) == ["a/2.jpg", "a/folder"]
    for number in range(1000):
        (tmp_path / "a" / f"other{number}.jpg").touch()  # a list of all takes too long
    monkeypatch.setattr(dataset, "_MANY", 20)
    assert dataset._missing(tmp_path, fids) == ["a/2.jpg", "a/folder"]


def test_a_header_is_suspected_where_the_first_image_alone_is_missing(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UserError, match="or remove the header, line 1"):
        dataset.check_images("a.csv", tmp_path, ["fid", "a"])
    with pytest.raises(UserError, match="the one or the other\\.$"):
        dataset.check_images("a.csv", tmp_path, ["a", "fid"])


@pytest.mark.parametrize("fid", ["/a", "../a", "b/../../a", ".."])
def test_images_outside_of_the_root(tmp_path, fid):
    fids = ["a..b", "b/../a", "..a", fid]
    with pytest.raises(UserError, match=r"1 of the 4 images of a.csv are not below.*--allow_any"):
        dataset.check_paths("a.csv", tmp_path, fids, allow_any_path=False)
    dataset.check_paths("a.csv", tmp_path, fids, allow_any_path=True)


# ------------------------------------------------------------------------- columns

COLUMNS = """pid,fid,camera,x1,y1,x2,y2,split,group,tracklet
1,a.jpg,c1,0,1,2,3,train,g,t1
1,b.jpg,c2,,,,,train,g,
2,a.jpg,c1,4,5.0,6,7,query,h,t1
"""


def test_the_columns_of_a_csv_with_a_header(tmp_path):
    data = dataset.load(write(tmp_path / "a.csv", COLUMNS))
    assert data.cameras.tolist() == ["c1", "c2", "c1"] and data.cameras.dtype == object
    assert data.boxes.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [4, 5, 6, 7]]
    assert data.boxes.dtype == np.int32
    assert data.splits.tolist() == ["train", "train", "query"]
    assert data.groups.tolist() == ["g", "g", "h"] and data.tracklets.tolist() == ["t1", "", "t1"]
    assert data.names().tolist() == ["a.jpg#0,1,2,3", "b.jpg", "a.jpg#4,5,6,7"]
    some = data.select(np.array([2, 0]))
    assert some.cameras.tolist() == ["c1", "c1"] and some.tracklets.tolist() == ["t1", "t1"]
    assert some.boxes.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert data.select(slice(1, 2)).groups.tolist() == ["g"]


def test_columns_that_a_csv_lacks_are_none(tmp_path):
    for text in ("1,a.jpg\n", "pid,fid\n1,a.jpg\n"):
        data = dataset.load(write(tmp_path / "a.csv", text))
        assert set(data.columns()) == {"pids", "fids"} and data.boxes is None
        assert data.select(np.array([0])).cameras is None
        assert data.names().tolist() == ["a.jpg"]


def test_a_split_has_its_rows(tmp_path):
    path = write(tmp_path / "a.csv", COLUMNS)
    assert dataset.load(path, "train").fids.tolist() == ["a.jpg", "b.jpg"]
    assert dataset.load(path, "query").boxes.tolist() == [[4, 5, 6, 7]]
    with pytest.raises(UserError, match="a.csv has no row whose split is val, but train, query"):
        dataset.load(path, "val")
    plain = write(tmp_path / "b.csv", "1,a.jpg\n")
    assert len(dataset.load(plain, "val")) == 1


@pytest.mark.parametrize(
    "header, row, message",
    [
        ("split", "test", "line 2: split should be one of train, query, gallery, val. Received: 'test'"),
        ("split", "qeury", "Received: 'qeury'. Meant: query"),
        ("split", "", "Received: ''"),
        ("camera", "", r"line 2: camera is empty, as in 1 rows. Received: '1,a.jpg,'. Give one"),
        ("group", "", "line 2: group is empty"),
        ("x1,y1,x2,y2", "0,0,0,5", r"line 2: x1,y1,x2,y2 should be .*Received: '0,0,0,5' for a.jpg"),
        ("x1,y1,x2,y2", "0,0,0,0", "Received: '0,0,0,0'"),
        ("x1,y1,x2,y2", "0,9,5,5", "Received: '0,9,5,5'"),
        ("x1,y1,x2,y2", "-1,0,5,5", "Received: '-1,0,5,5'"),
        ("x1,y1,x2,y2", "0,0,5,", "Received: '0,0,5,'"),
        ("x1,y1,x2,y2", "0,0,5,5.5", "Received: '0,0,5,5.5'"),
        ("x1,y1,x2,y2", "0,0,5,five", "Received: '0,0,5,five'"),
        ("x1,y1,x2,y2", "0,0,5,inf", "Received: '0,0,5,inf'"),
        ("x1,y1,x2,y2", "0,0,5,3000000000", "Received: '0,0,5,3000000000'"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_named_with_its_line(tmp_path, header, row, message):
    path = write(tmp_path / "bad.csv", f"pid,fid,{header}\n1,a.jpg,{row}\n")
    with pytest.raises(UserError, match=message) as error:
        dataset.load(path)
    assert "bad.csv" in str(error.value)


def test_a_header_without_rows_is_an_empty_set(tmp_path):
    with pytest.raises(UserError, match="is empty"):
        dataset.load(write(tmp_path / "a.csv", "pid,fid\n"))


def test_parquet_is_read_as_a_csv(tmp_path):
    path = write(tmp_path / "a.csv", COLUMNS)
    frame = pandas.read_csv(path)  # with floats, and NaN where there is no box
    frame.to_parquet(tmp_path / "a.parquet")
    data, expected = dataset.load(tmp_path / "a.parquet"), dataset.load(path)
    assert set(data.columns()) == set(expected.columns())
    for name, column in data.columns().items():
        assert column.tolist() == getattr(expected, name).tolist()


def test_paths_and_names_of_several_sets():
    data = Dataset(pids=["1", "2"], fids=["a.jpg", "a.jpg"], sets=[0, 1])
    assert data.paths(["A", "B"]).tolist() == ["A/a.jpg", "B/a.jpg"]
    assert data.paths("C").tolist() == ["C/a.jpg", "C/a.jpg"]
    assert data.names().tolist() == ["1:a.jpg", "2:a.jpg"]


def test_links_that_lead_out_are_asked_about(tmp_path):
    for path in ("out/x.jpg", "root/a/y.jpg"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    root = tmp_path / "root"
    (root / "file.jpg").symlink_to(tmp_path / "out/x.jpg")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "inside.jpg").symlink_to("a/y.jpg")
    (tmp_path / "link").symlink_to(root)
    # lnk/.. is not where the text says.
    fids = ["file.jpg", "folder/x.jpg", "folder/../out/x.jpg", "inside.jpg", "a/y.jpg"]
    for image_root in (root, tmp_path / "link"):
        with pytest.raises(
            UserError,
            match="links lead 3 of the 5 images of a.csv out of .*: file.jpg -> .*out/x.jpg, "
            "folder/x.jpg -> .*--allow_any_path",
        ):
            dataset.check_images("a.csv", image_root, fids, allow_links=False)
        dataset.check_images("a.csv", image_root, fids)  # a training that is resumed
        dataset.check_images("a.csv", image_root, fids, allow_any_path=True, allow_links=False)
        dataset.check_images("a.csv", image_root, fids[3:], allow_links=False)


def test_a_missing_image_is_told_with_what_is_known_of_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").touch()
    with pytest.raises(UserError, match=r"are not in --image_root .*: a.x.jpg\. .*Windows"):
        dataset.check_images("a.csv", tmp_path, ["a\\x.jpg"])


# ------------------------------------------------------------------------- several sets


@pytest.fixture
def two(tmp_path):
    header = "pid,fid,camera,group,x1,y1,x2,y2\n"
    first = write(tmp_path / "a.csv", f"{header}1,a.jpg,c,g,0,0,5,5\n2,b.jpg,c,h,1,1,2,2\n")
    second = write(tmp_path / "b.csv", "pid,fid,camera,tracklet\n1,a.jpg,c,t\n")
    return [str(first), str(second)]


def test_several_sets_are_one_after_the_other(two, caplog):
    data = dataset.load_sets(two, "train")
    assert data.pids.tolist() == ["1:1", "1:2", "2:1"] and data.sets.tolist() == [0, 0, 1]
    assert data.fids.tolist() == ["a.jpg", "b.jpg", "a.jpg"]
    assert data.boxes.tolist() == [[0, 0, 5, 5], [1, 1, 2, 2], [0, 0, 0, 0]]
    assert data.tracklets.tolist() == ["", "", "t"]
    assert data.cameras.tolist() == ["c", "c", "c"] and data.groups is None
    assert data.names().tolist() == ["1:a.jpg#0,0,5,5", "1:b.jpg#1,1,2,2", "2:a.jpg"]
    assert data.path == ", ".join(two)
    assert caplog.messages == [
        "1 pids are in several data sets, and count as different identities in each: 1 (row 1 of "
        f"{two[0]}, row 1 of {two[1]}). With --join_pids they are one."
    ]


def test_pids_as_each_file_has_them(two):
    for join_pids in (False, True):
        data = dataset.load_sets(two, "train", join_pids)
        of_files = dataset.pids_by_file(data, join_pids)
        expected = [dataset.load(path).pids.tolist() for path in two]
        if join_pids:
            expected = [expected[0] + expected[1]]
        assert [pids.tolist() for pids in of_files] == expected
    (alone,) = dataset.pids_by_file(dataset.load(two[0]), join_pids=False)
    assert alone.tolist() == dataset.load(two[0]).pids.tolist()


def test_pids_can_be_joined(two, caplog):
    data = dataset.load_sets(two, "train", join_pids=True)
    assert data.pids.tolist() == ["1", "2", "1"] and not caplog.messages


def test_one_set_stays_what_it_is(two):
    data = dataset.load_sets(two[:1], "train")
    assert data.pids.tolist() == ["1", "2"] and data.sets is None and data.path == two[0]


def test_the_images_of_each_set_are_looked_for_below_its_root(two, tmp_path):
    for folder in "AB":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").touch()
    data = dataset.load_sets(two, "train")
    roots = [str(tmp_path / folder) for folder in "AB"]
    with pytest.raises(
        UserError, match=r"1 of the 2 images of .*a.csv are not in --image_root .*A: b.jpg"
    ):
        dataset.check_sets(data, two, roots)
    dataset.check_sets(data, two, roots, only_first=True)
    (tmp_path / "A" / "b.jpg").touch()
    dataset.check_sets(data, two, roots)
    with pytest.raises(UserError, match="1 of the 1 images of .*b.csv are not in"):
        dataset.check_sets(data, two, [roots[0], str(tmp_path)], only_first=True)


def test_paths_are_made_when_they_are_asked_for(tmp_path):
    fids = np.array(["a.jpg", "/b.jpg", "c/d.jpg", "./e.jpg"], dtype=object)
    expected = [os.path.join(tmp_path, fid) for fid in fids]
    files = dataset.Dataset(["0"] * 4, fids).files(tmp_path)
    assert len(files) == 4
    assert list(files.paths) == np.asarray(files.paths).tolist() == expected
    assert files.paths[2] == expected[2]
    for rows in (np.array([3, 0, 3]), slice(1, 3), slice(None), np.array([], int)):
        some = files.select(rows)
        assert some.paths.tolist() == np.array(expected, object)[rows].tolist()
