"""Identities into training and test, images of the test into queries and gallery."""

from collections import Counter

import pytest

import common
from data import split
from data.csv_builder import Table
from data.split import Rules


def images_of(counts, cameras=1):
    """A table of pids with so many images each, which take turns with the cameras."""
    rows = [
        (pid, f"{pid}/{number}.jpg", str(number % cameras))
        for pid, count in counts.items()
        for number in range(count)
    ]
    if cameras == 1:
        return Table(("pid", "fid"), [row[:2] for row in rows])
    return Table(("pid", "fid", "camera"), rows)


def pids(table):
    return set(table.column("pid"))


def table(*rows, columns="pid,fid,camera"):
    return Table(tuple(columns.split(",")), [tuple(row.split(",")) for row in rows])


def queries(images, **rules):
    """The fids of the queries where `a` trains and all else is tested."""
    return split.divide(images, Rules(train_pids=["a"], **rules)).parts["query"].column("fid")


# ------------------------------------------------------------------------- identities


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_image_is_in_one_part_and_no_identity_in_two(share, seed):
    images = images_of({f"{number:02d}": 2 + number % 7 for number in range(41)})
    parts = split.divide(images, Rules(train_share=share, seed=seed)).parts
    assert sorted(sum((part.rows for part in parts.values()), [])) == sorted(images.rows)
    assert not pids(parts["train"]) & (pids(parts["query"]) | pids(parts["gallery"]))
    assert abs(len(pids(parts["train"])) - 41 * share) < 1
    for part in parts.values():  # the order of the CSV
        assert part.rows == [row for row in images.rows if row in set(part.rows)]


def test_both_parts_have_frequent_and_rare_identities_of_each_group():
    counts = {f"{number:03d}": 2 + number for number in range(100)}
    rows = [(*row, "ab"[int(row[0]) % 2]) for row in images_of(counts).rows]
    train = split.divide(Table(("pid", "fid", "group"), rows), Rules(seed=3)).parts["train"]
    trained = sorted(map(int, pids(train)))
    for group in (0, 1):
        of_group = [pid for pid in trained if pid % 2 == group]
        assert abs(len(of_group) - 25) <= 1
        for start in range(0, 100, 20):  # ten of each group, by their numbers of images
            assert 3 <= len([pid for pid in of_group if start <= pid < start + 20]) <= 7


def test_the_seed_draws_and_the_same_seed_draws_the_same():
    images = images_of({f"{number:02d}": 5 for number in range(40)})
    first, again, other = (split.divide(images, Rules(seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert pids(first.parts["train"]) != pids(other.parts["train"])


def test_identities_by_hand():
    images = images_of({"a": 2, "b": 2, "c": 2})
    by_train = split.divide(images, Rules(train_pids=["c", "a"]))
    by_test = split.divide(images, Rules(test_pids=["b"]))
    assert by_train.parts == by_test.parts
    assert pids(by_train.parts["train"]) == {"a", "c"}
    assert by_train.lines[0] == "Identities: 2 for training, 1 for testing, as --train_pids says."
    with pytest.raises(common.UserError, match=r"--train_pids: 1 names are not .* an\. Meant: a"):
        split.divide(images, Rules(train_pids=["an"]))
    with pytest.raises(common.UserError, match="Received: 3 for training, 0 for testing, as"):
        split.divide(images, Rules(train_pids=["a", "b", "c"]))


def test_one_identity_cannot_be_divided():
    with pytest.raises(common.UserError, match="an identity each. Received: 1 in all"):
        split.divide(images_of({"a": 9, "-1": 3}), Rules(distractors=["-1"]))


def test_distractors_are_in_the_gallery():
    images = images_of({"a": 4, "b": 4, "unknown": 4}, cameras=2)
    for rules in (Rules(), Rules(query_cameras=["0"])):
        parts = split.divide(images, rules._replace(distractors=["unknown"])).parts
        assert "unknown" not in pids(parts["train"]) | pids(parts["query"])
        assert Counter(parts["gallery"].column("pid"))["unknown"] == 4
    with pytest.raises(common.UserError, match="--distractors: 1 names are not in the CSV: x"):
        split.divide(images, Rules(distractors=["x"]))


# ------------------------------------------------------------------------- queries


def test_a_query_of_each_identity_and_camera_each_of_which_keeps_one_for_the_gallery():
    images = images_of({"a": 2, "b": 6, "c": 4, "d": 3, "e": 2}, cameras=2)
    fids = queries(images)
    # b and c have two and more in each camera; d has two in camera 0; e one in each
    assert [fid[0] for fid in fids] == ["b", "b", "c", "c", "d", "e"]
    assert {int(fid[2]) % 2 for fid in fids if fid[0] == "b"} == {0, 1}
    assert int(fids[4][2]) % 2 == 0
    assert len(queries(images, queries=2)) == 2 * 2 + 2 * 1 + 1 + 1
    assert queries(images) == fids and queries(images, seed=1) != fids


def test_queries_stay_when_other_identities_come():
    before = queries(images_of({"a": 2, "b": 9, "c": 9}))
    after = queries(images_of({"a": 2, "aa": 9, "b": 9, "c": 9}))
    assert after[1:] == before


def test_an_identity_of_one_camera_or_one_image_is_only_in_the_gallery():
    images = table("a,1.jpg,1", "b,2.jpg,1", "b,3.jpg,1", "c,4.jpg,1", "c,5.jpg,2")
    division = split.divide(images, Rules(train_pids=["a"]))
    assert pids(division.parts["query"]) == {"c"}
    assert (
        "1 identities (b) have a single camera and so are only in the gallery:" in division.lines[2]
    )
    division = split.divide(images_of({"a": 1, "b": 1, "c": 2}), Rules(train_pids=["a"]))
    assert pids(division.parts["query"]) == {"c"}
    assert division.lines[1] == "Queries: 1 image of each identity, drawn with --seed 0."
    assert division.lines[2].startswith("1 identities (b) have a single image and so are only in")


def test_whole_tracklets_are_queries():
    rows = ["a,0.jpg,", "b,1.jpg,t1", "b,2.jpg,t1", "b,3.jpg,t2", "b,4.jpg,t2"]
    fids = queries(table(*rows, columns="pid,fid,tracklet"))
    assert fids in (["1.jpg", "2.jpg"], ["3.jpg", "4.jpg"])
    # an image that is in no tracklet is one of its own
    assert len(queries(table("a,0.jpg,", "b,1.jpg,", "b,2.jpg,", columns="pid,fid,tracklet"))) == 1


def test_queries_by_camera_by_time_and_by_hand():
    images = table(
        "a,0.jpg,1,2024-01-01",
        "b,1.jpg,1,2024-06-01",
        "b,2.jpg,2,2024-5-31",
        "c,3.jpg,2,2024-10-01",
        "c,4.jpg,3,2023-12-31",
        columns="pid,fid,camera,date",
    )
    assert queries(images, query_cameras=["1", "3"]) == ["1.jpg", "4.jpg"]
    assert queries(images, query_from="2024-06-01") == ["1.jpg", "3.jpg"]
    assert queries(images, query_from="2024") == ["1.jpg", "2.jpg", "3.jpg"]
    assert queries(images, query_fids=["3.jpg", "2.jpg"]) == ["2.jpg", "3.jpg"]


def test_an_undivided_test():
    images = images_of({"a": 2, "b": 1, "c": 3})
    division = split.divide(images, Rules(train_pids=["a"], queries=0))
    assert {name: len(part.rows) for name, part in division.parts.items()} == {
        "train": 2,
        "test": 4,
    }
    assert len(division.lines) == 1


def test_queries_without_a_match_are_told():
    images = table("a,0.jpg,1", "b,1.jpg,1", "b,2.jpg,2", "c,3.jpg,1", "d,4.jpg,1", "d,5.jpg,1")
    lines = split.divide(
        images, Rules(train_pids=["a"], query_fids=["1.jpg", "3.jpg", "4.jpg"])
    ).lines
    assert lines[-1] == (
        "2 queries (3.jpg, 4.jpg) have no match from another camera in the gallery, and do not count in an evaluation."
    )


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(train_pids=["a"], query_cameras=["9"]), "--query_cameras, .*not in the CSV: 9. It"),
        (Rules(train_pids=["a"], query_fids=["a/0.jpg"]), "--query_list, of the identities for"),
        (Rules(train_pids=["a"], query_cameras=["0", "1"]), "no image would be in gallery.csv"),
        (Rules(query_from="2024"), "--query_from needs the column date, which .* pid, fid, camera"),
    ],
)
def test_rules_that_do_not_fit(rules, message):
    with pytest.raises(common.UserError, match=message):
        split.divide(images_of({"a": 2, "b": 2}, cameras=2), rules)


def test_a_date_has_numbers():
    images = table("a,0.jpg,May", "b,1.jpg,2024", columns="pid,fid,date")
    for rules in (Rules(test_pids=["a"], query_from="2024"), Rules(query_from="June")):
        with pytest.raises(
            common.UserError, match="a date should have numbers, .*Received: '(May|June)'"
        ):
            split.divide(images, rules)


# ------------------------------------------------------------------------- the command


def run(tmp_path, *flags, directory="csvs"):
    argv = [str(tmp_path / "mine.csv"), f"--directory={tmp_path / directory}", *flags]
    split.main(split.parse_args(argv))
    names = ("train", "query", "gallery")
    return {name: (tmp_path / directory / f"{name}.csv").read_text() for name in names}


def test_the_columns_of_the_csv_are_kept_but_for_split(tmp_path, capsys):
    text = "fid,pid,x1,y1,x2,y2,split,note\n1.jpg,a,0,0,5,5,train,x\n2.jpg,b,,,,,query,y\n3.jpg,b,1,1,2,3,val,z\n"
    (tmp_path / "mine.csv").write_text(text)
    (tmp_path / "train.txt").write_text("\ufeffa\n\n", encoding="utf-8")
    parts = run(tmp_path, f"--train_pids={tmp_path / 'train.txt'}")
    assert parts["train"] == "pid,fid,x1,y1,x2,y2\na,1.jpg,0,0,5,5\n"
    both = {parts["query"], parts["gallery"]}
    header = "pid,fid,x1,y1,x2,y2\n"
    assert both == {header + "b,2.jpg,,,,\n", header + "b,3.jpg,1,1,2,3\n"}
    assert "train.csv: 1 images, 1 pids, with boxes\n" in capsys.readouterr().out


def test_a_csv_without_header_with_cameras_and_dates_in_the_names(tmp_path, capsys):
    rows = [
        f"{pid},{pid}_c{camera}_2024-0{month}.jpg\n"
        for pid in "ab"
        for camera in "12"
        for month in "12"
    ]
    (tmp_path / "mine.csv").write_text("".join(rows))
    flags = (r"--camera=_c(\d)", r"--date=_(\d+-\d+)")
    parts = run(tmp_path, *flags, "--query_from=2024-02")
    assert parts["query"].splitlines()[0] == "pid,fid,camera,date"
    assert [line.rpartition(",")[2] for line in parts["query"].splitlines()[1:]] == ["2024-02"] * 2
    assert "Queries: all images of 2024-02 or later.\n" in capsys.readouterr().out


def test_the_csv_itself_is_not_replaced(tmp_path):
    (tmp_path / "mine.csv").write_text("a,1.jpg\nb,2.jpg\nb,3.jpg\n")
    (tmp_path / "train.csv").symlink_to(tmp_path / "mine.csv")
    with pytest.raises(common.UserError, match="train.csv would replace the CSV that is divided"):
        run(tmp_path, directory=".")
    assert (tmp_path / "mine.csv").read_text().count("\n") == 3
    assert not (tmp_path / "query.csv").exists()


def test_what_is_left_of_an_earlier_division_is_told(tmp_path, capsys):
    rows = [f"{pid},{pid}{i}.jpg" for pid in "abcd" for i in range(3)]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    (tmp_path / "first.txt").write_text("a\nb\n")
    (tmp_path / "second.txt").write_text("a\nc\n")
    run(tmp_path, f"--train_pids={tmp_path / 'first.txt'}")
    run(tmp_path, f"--train_pids={tmp_path / 'first.txt'}", "--queries=0")  # the same identities
    assert "earlier" not in capsys.readouterr().err
    run(tmp_path, f"--train_pids={tmp_path / 'second.txt'}", "--queries=0")
    told = capsys.readouterr().err.splitlines()
    assert [line.partition("data.split: ")[2] for line in told] == [
        f"{tmp_path / 'csvs' / name}.csv is of an earlier division: it has pids that train.csv has now (c). Remove it."
        for name in ("query", "gallery")
    ]
    run(tmp_path, f"--train_pids={tmp_path / 'second.txt'}")  # test.csv is of the same identities
    assert "earlier" not in capsys.readouterr().err


def test_lists_by_hand_that_are_none(tmp_path):
    (tmp_path / "mine.csv").write_text("a,1.jpg\nb,2.jpg\nb,3.jpg\n")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(common.UserError, match="list.txt is empty. It should have one name a line"):
        run(tmp_path, f"--train_pids={tmp_path / 'list.txt'}")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(common.UserError, match="list.txt is not UTF-8 text"):
        run(tmp_path, f"--query_list={tmp_path / 'list.txt'}")
    assert not (tmp_path / "csvs").exists()
