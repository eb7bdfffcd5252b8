import csv
import io
import sys

import numpy as np
import pandas
import pytest

from common import UserError
from data import table


def read(text):
    return table.read("a.csv", text.encode())


def columns(text):
    return {name: column.tolist() for name, column in read(text).columns.items()}


@pytest.mark.parametrize(
    "text",
    [
        "pid,fid\n1,a.jpg\n",
        "\ufeffpid,fid\r\n1,a.jpg\r\n",
        "\n \npid,fid\n\n1,a.jpg\n\n",
        '"pid","fid"\n"1","a.jpg"\n',
        " pid , fid\n1,a.jpg\n",
        "fid,pid\na.jpg,1\n",
        "year,fid,pid,species\n2020,a.jpg,1,cat\n",
    ],
    ids=["plain", "BOM", "blank lines", "quotes", "spaces", "order", "other columns"],
)
def test_a_first_row_with_pid_and_fid_is_a_header(text):
    assert columns(text) == {"pid": ["1"], "fid": ["a.jpg"]}


@pytest.mark.parametrize(
    "first",
    [
        ("pid", "x.jpg"),
        ("pid", "./fid"),
        ("pid", "pid"),
        ("1", "fid"),
        ("PID", "FID"),
        ("p id", "fid"),
        ("id", "file"),
    ],
)
def test_any_other_first_row_is_an_image(first):
    text = f"{','.join(first)}\npid,fid\n1,a.jpg\n"
    assert columns(text) == {"pid": [first[0], "pid", "1"], "fid": [first[1], "fid", "a.jpg"]}


def test_all_columns_are_kept_as_they_are_written():
    text = (
        "split,x1,pid,y1,fid,x2,camera,y2,group,tracklet\n"
        "train,1,0001,2,a b.jpg,03,c1,4,NA,\n"
        "val,,NA,,#.png,,01,,g, t\n"
    )
    expected = {
        "split": ["train", "val"],
        "x1": ["1", ""],
        "pid": ["0001", "NA"],
        "y1": ["2", ""],
        "fid": ["a b.jpg", "#.png"],
        "x2": ["03", ""],
        "camera": ["c1", "01"],
        "y2": ["4", ""],
        "group": ["NA", "g"],
        "tracklet": ["", " t"],
    }
    assert columns(text) == expected
    assert columns(text.replace("NA", '"NA"')) == expected  # by the other way of reading


@pytest.mark.parametrize(
    "text, lines",
    [
        ("pid,fid\n1,a\n2,b\n", [2, 3]),
        ("\npid,fid\n\n1,a\n2,b\n", [4, 5]),
        ('pid,fid\n1,"a\nb"\n2,c\n', [3, 4]),
        ("1,a\n2,b\n", [1, 2]),
        ("1,a\n\n2,b\n", [1, 3]),
    ],
)
def test_rows_know_their_lines(text, lines):
    got = read(text)
    assert list(got.lines) == lines and got.place(1) == f"line {lines[1]}"


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "pid,fid,camera\n1,a.jpg,1\n2,b.jpg\n",
            r"line 3: should be 3 columns, pid,fid,camera.*'2,b.jpg'",
        ),
        ("pid,fid,camera\n1,a.jpg,1,\n", r"line 2: should be 3 columns.*'1,a.jpg,1,'"),
        ("pid,fid,camera\n1,,3\n", r"line 2: .*with a pid and a fid.*'1,,3'"),
        ("pid,fid\n1,a\n\n,b\n", "line 4: .*',b'"),
        ('pid,fid\n1,"a\n', "is no CSV"),
        ("pid,fid,pid\n1,a,2\n", "column pid twice. Received: 'pid,fid,pid'. Rename"),
        ("pid,fid,camera,camera\n1,a,2,2\n", "column camera twice"),
        ("pid,fid,x1,y1,x2\n1,a,0,0,1\n", "four columns, x1,y1,x2,y2, but .* no y2. Received"),
        ("pid,fid,x1,y1,x,y\n1,a,0,0,1,1\n", "has no x2, y2"),
        (
            "id,file,cam\n1,a,2\n",
            "line 1: .*two columns.*'id,file,cam'.*header with pid and fid. If it is a header, its names should be "
            "others: pid for id, fid for file, camera for cam.$",
        ),
        ("Pid,FID,x\n1,a,2\n", "others: pid for Pid, fid for FID, x1 for x.$"),
        ("person_id,image path,y\n1,a,2\n", "pid for person_id, fid for image path"),
        ("1,a.jpg,2\n", "header with pid and fid.$"),
    ],
)
def test_a_fault_is_told_with_its_line(text, message):
    with pytest.raises(UserError, match=message):
        read(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("pid,fid,cam\n1,a,2\n", "columns that are not used: cam (meant: camera?)"),
        ("pid,fid,Split,boxx\n1,a,2,3\n", "Split (meant: split?)"),
        ("pid,fid,camera,cam,date,id\n1,a,2,3,4,5\n", None),
    ],
)
def test_likely_typos_are_told(text, message, caplog):
    read(text)
    assert [message in line for line in caplog.messages] == ([True] if message else [])


def test_random_files_with_a_header_are_read_as_by_the_csv_module():
    rng = np.random.default_rng(0)
    words = ["1", "01", "a b", "é", "NA", "#", "1e5", " ", "\u2028", '"a,b"', '"q""q"', ""]
    good = 0
    for _ in range(1000):
        names = list(
            rng.permutation(["pid", "fid", "camera", "group", "other"][: rng.integers(2, 6)])
        )
        rows = [list(rng.choice(words, len(names))) for _ in range(rng.integers(1, 5))]
        if rng.random() < 0.2:
            rows[-1].append("x")
        if rng.random() < 0.2:
            del rows[0][-1]
        newline = rng.choice(["\n", "\r\n"])
        text = newline.join(",".join(row) for row in [names, *rows])
        _, *parsed = csv.reader(io.StringIO(text, newline=""), strict=True)
        parsed = [row for row in parsed if len(row) > 1 or "".join(row).strip()]
        required = [names.index("pid"), names.index("fid")]
        if any(len(row) != len(names) or not all(row[at] for at in required) for row in parsed):
            with pytest.raises(UserError, match="line"):
                read(text)
            continue
        expected = {name: [row[at] for row in parsed] for at, name in enumerate(names)}
        expected.pop("other", None)
        assert columns(text) == expected
        good += 1
    assert 200 < good < 800


# ------------------------------------------------------------------------- Parquet


def parquet(frame):
    file = io.BytesIO()
    pandas.DataFrame(frame).to_parquet(file)
    return file.getvalue()


def test_parquet_has_the_columns_of_a_csv():
    content = parquet(
        {
            "pid": [7, 12],
            "fid": ["a.jpg", "b.jpg"],
            "camera": pandas.Categorical(["x", "y"]),
            "tracklet": ["t", None],
            "x1": [1, 2],
            "y1": [1.0, 2.0],
            "x2": pandas.array([5, None], "Int64"),
            "y2": [5, 6],
            "other": [1, 2],
        }
    )
    got = table.read("a.parquet", content)
    assert {
        name: column.tolist() for name, column in got.columns.items() if name not in table.BOX
    } == {
        "pid": ["7", "12"],
        "fid": ["a.jpg", "b.jpg"],
        "camera": ["x", "y"],
        "tracklet": ["t", ""],
    }
    assert got.columns["x1"].tolist() == [1, 2] and got.place(1) == "row 2"


@pytest.mark.parametrize(
    "frame, message",
    [
        (
            {"id": [1], "file": ["a"]},
            "columns pid and fid. Received: id, file. If .* pid for id, fid for file",
        ),
        (
            {"pid": [1.5], "fid": ["a"]},
            "row 1: pid should be text or a whole number. Received: 1.5",
        ),
        ({"pid": [True], "fid": ["a"]}, "row 1: pid should be text"),
        ({"pid": ["1", None], "fid": ["a", "b"]}, "row 2: pid is empty"),
        ({"pid": ["1"], "fid": ["a"], "x1": [1]}, "no y1, x2, y2"),
    ],
)
def test_bad_parquet_is_told(frame, message):
    with pytest.raises(UserError, match=message):
        table.read("a.parquet", parquet(frame))


def test_damaged_parquet_is_told():
    with pytest.raises(UserError, match="a.parquet cannot be read as Parquet"):
        table.read("a.parquet", b"PAR1 and so on")


def test_parquet_without_pyarrow_is_told(monkeypatch):
    content = parquet({"pid": ["1"], "fid": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r"needs pyarrow to be read. Call pip install pyarrow, or save it as CSV"
    ):
        table.read("a.parquet", content)
