"""Each builder on an imitation of its data set's folder: the names are real, the files empty."""

import importlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.io

import common
from data import csv_builder, dataset, synthetic


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root, name, *lines):
    touch(root, name)
    (root / name).write_text("".join(f"{line}\n" for line in lines))


def annotations(root, name, column, rows):
    """A struct array as in the .mat files of Cars196."""
    fields = [("bbox_x1", object), (column, object), ("class", object)]
    array = np.array([(np.uint8(39), file, np.uint8(label)) for file, label in rows], fields)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        root / name, {"annotations": array, "class_names": np.array(["a", "b"], object)}
    )


# Each makes a folder, and tells the rows that are expected in each CSV.


def market1501(root):
    touch(
        root,
        "bounding_box_train/0007_c3s3_077419_03.jpg",
        "bounding_box_train/0002_c1s1_000451_03.jpg",
    )
    touch(
        root,
        "bounding_box_train/0000_c1s1_000451_03.jpg",
        "bounding_box_train/-1_c1s1_000451_03.jpg",
    )
    touch(
        root, "query/0001_c1s1_001051_00.jpg", "query/Thumbs.db", "query/._0001_c1s1_001051_00.jpg"
    )
    touch(
        root, "bounding_box_test/0001_c2s1_000301_00.jpg", "bounding_box_test/-1_c1s1_000401_03.jpg"
    )
    touch(
        root,
        "bounding_box_test/0000_c1s1_000151_01.jpg",
        "bounding_box_test/Thumbs.db",
        "readme.txt",
    )
    return {
        "train": [
            "0002,bounding_box_train/0002_c1s1_000451_03.jpg",
            "0007,bounding_box_train/0007_c3s3_077419_03.jpg",
        ],
        "query": ["0001,query/0001_c1s1_001051_00.jpg"],
        "gallery": [
            "-1,bounding_box_test/-1_c1s1_000401_03.jpg",
            "0000,bounding_box_test/0000_c1s1_000151_01.jpg",
            "0001,bounding_box_test/0001_c2s1_000301_00.jpg",
        ],
    }


def duke(root):
    touch(root, "bounding_box_train/0001_c2_f0046182.jpg", "CITATION.txt")
    touch(root, "query/0005_c2_f0046985.jpg")
    touch(root, "bounding_box_test/0005_c5_f0051261.jpg", "bounding_box_test/7139_c2_f0160815.jpg")
    return {
        "train": ["0001,bounding_box_train/0001_c2_f0046182.jpg"],
        "query": ["0005,query/0005_c2_f0046985.jpg"],
        "gallery": [
            "0005,bounding_box_test/0005_c5_f0051261.jpg",
            "7139,bounding_box_test/7139_c2_f0160815.jpg",
        ],
    }


def cuhk03_np(root):
    rows = {}
    for kind in ("detected", "labeled"):
        touch(
            root,
            f"{kind}/bounding_box_train/0001_c1_1.png",
            f"{kind}/bounding_box_train/0001_c2_6.png",
        )
        touch(root, f"{kind}/query/0007_c1_2.png", f"{kind}/bounding_box_test/0007_c2_7.png")
        rows |= {
            f"{kind}_train": [
                f"0001,{kind}/bounding_box_train/0001_c{end}.png" for end in ("1_1", "2_6")
            ],
            f"{kind}_query": [f"0007,{kind}/query/0007_c1_2.png"],
            f"{kind}_gallery": [f"0007,{kind}/bounding_box_test/0007_c2_7.png"],
        }
    return rows


def msmt17(root, train="train", test="test"):
    write(
        root,
        "list_train.txt",
        "0000/0000_000_01_0303morning_0015_0.jpg 0",
        "0001/0001_004_12_0303noon_0160_1.jpg 1",
    )
    write(root, "list_val.txt", "0000/0000_001_05_0303morning_0016_0.jpg 0", "")
    write(root, "list_query.txt", "0000/0000_002_07_0303evening_0009_2_ex.jpg 0")
    write(root, "list_gallery.txt", "0000/0000_003_08_0303evening_0009_2.jpg 0")
    rows = {
        "train": [
            f"0000,{train}/0000/0000_000_01_0303morning_0015_0.jpg",
            f"0001,{train}/0001/0001_004_12_0303noon_0160_1.jpg",
            f"0000,{train}/0000/0000_001_05_0303morning_0016_0.jpg",
        ],
        "query": [f"0000,{test}/0000/0000_002_07_0303evening_0009_2_ex.jpg"],
        "gallery": [f"0000,{test}/0000/0000_003_08_0303evening_0009_2.jpg"],
    }
    touch(root, *(row.split(",")[1] for part in rows.values() for row in part))
    touch(root, f"{train}/0009/0009_000_01_0303morning_0015_0.jpg")  # not listed
    return rows


def msmt17_v2(root):
    return msmt17(root, "mask_train_v2", "mask_test_v2")


def veri776(root):
    write(root, "name_train.txt", "0001_c001_00016450_0.jpg\r", "0001_c003_00017085_0.jpg\r")
    write(root, "name_query.txt", "0002_c002_00030600_0.jpg")
    write(root, "name_test.txt", "0002_c002_00030605_1.jpg")
    rows = {
        "train": [
            "0001,image_train/0001_c001_00016450_0.jpg",
            "0001,image_train/0001_c003_00017085_0.jpg",
        ],
        "query": ["0002,image_query/0002_c002_00030600_0.jpg"],
        "gallery": ["0002,image_test/0002_c002_00030605_1.jpg"],
    }
    touch(root, *(row.split(",")[1] for part in rows.values() for row in part))
    return rows


def cub200(root):
    paths = [
        "001.Black_footed_Albatross/B_0046_18.jpg",
        "100.Brown_Pelican/P_1.jpg",
        "101.White_Pelican/W_2.jpg",
    ]
    write(root, "images.txt", *(f"{number} {path}" for number, path in enumerate(paths, 1)))
    write(root, "image_class_labels.txt", "1 1", "2 100", "3 101")
    touch(root, *(f"images/{path}" for path in paths))
    return {
        "train": [f"1,images/{paths[0]}", f"100,images/{paths[1]}"],
        "test": [f"101,images/{paths[2]}"],
    }


def cars196(root):
    rows = [
        ("car_ims/000001.jpg", 1),
        ("car_ims/000002.jpg", 98),
        ("car_ims/000003.jpg", 99),
        ("car_ims/4.jpg", 196),
    ]
    annotations(root, "cars_annos.mat", "relative_im_path", rows)
    touch(root, *(file for file, _ in rows))
    lines = [f"{label},{file}" for file, label in rows]
    return {"train": lines[:2], "test": lines[2:]}


def cars196_devkit(root):
    annotations(
        root, "devkit/cars_train_annos.mat", "fname", [("00001.jpg", 14), ("00002.jpg", 120)]
    )
    annotations(
        root, "cars_test_annos_withlabels.mat", "fname", [("00001.jpg", 98)]
    )  # one row: no array in MATLAB
    touch(root, "cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg")
    return {
        "train": ["14,cars_train/00001.jpg", "98,cars_test/00001.jpg"],
        "test": ["120,cars_train/00002.jpg"],
    }


def sop(root):
    header = "image_id class_id super_class_id path"
    write(
        root,
        "Ebay_train.txt",
        header,
        "1 1 1 bicycle_final/111085122871_0.JPG",
        "2 1 1 bicycle_final/1_1.JPG",
    )
    write(root, "Ebay_test.txt", header, "59552 11319 1 chair_final/2_0.JPG")
    touch(root, "bicycle_final/111085122871_0.JPG", "bicycle_final/1_1.JPG", "chair_final/2_0.JPG")
    return {
        "train": ["1,bicycle_final/111085122871_0.JPG", "1,bicycle_final/1_1.JPG"],
        "test": ["11319,chair_final/2_0.JPG"],
    }


def inshop(root, images="img", source="list_eval_partition.txt"):
    paths = [
        "img/WOMEN/Dresses/id_00000002/02_1_front.jpg",
        "img/WOMEN/Dresses/id_00000002/02_2_side.jpg",
        "img/MEN/Denim/id_00000080/01_1_front.jpg",
        "img/MEN/Denim/id_00000080/01_2_side.jpg",
    ]
    rows = zip(paths, ("train", "train", "query", "gallery"), strict=True)
    lines = [f"{path}  {path.split('/')[3]}  {part}" for path, part in rows]
    write(root, source, "4", "image_name item_id evaluation_status", *lines)
    folder = images.removesuffix("img")
    touch(root, *(folder + path for path in paths))
    header = "pid,fid,group"
    return {
        "train": [header, *(f"id_00000002,{folder}{path},WOMEN/Dresses" for path in paths[:2])],
        "query": [header, f"id_00000080,{folder}{paths[2]},MEN/Denim"],
        "gallery": [header, f"id_00000080,{folder}{paths[3]},MEN/Denim"],
    }


def inshop_as_downloaded(root):
    return inshop(root, "Img/img", "Eval/list_eval_partition.txt")


def vehicleid(root):
    write(root, "train_test_split/train_list.txt", "0000001 12", "0000002 12", "0000003 7")
    write(root, "train_test_split/test_list_800.txt", "0000011 5", "0000012 5", "0000013 6")
    write(root, "train_test_split/test_list_1600.txt", "0000013 6", "0000014 6")
    write(root, "train_test_split/test_list_2400.txt", "0000011 5", "0000014 5", "0000015 5")
    touch(root, *(f"image/00000{number:02d}.jpg" for number in (1, 2, 3, 11, 12, 13, 14, 15)))
    rows = {
        "train": ["12,image/0000001.jpg", "12,image/0000002.jpg", "7,image/0000003.jpg"],
        "query_800": ["5,image/0000012.jpg"],
        "gallery_800": ["5,image/0000011.jpg", "6,image/0000013.jpg"],
        "query_1600": ["6,image/0000013.jpg"],
        "gallery_1600": ["6,image/0000014.jpg"],
        "query_2400": ["5,image/0000014.jpg", "5,image/0000015.jpg"],
        "gallery_2400": ["5,image/0000011.jpg"],
    }
    return {name: ["pid,fid", *part] for name, part in rows.items()}


def atrw(root, train="", test="", images="", truth="gt_test_plain.json"):
    write(root, f"{train}reid_list_train.csv", "4,000013.jpg", "112,004096.jpg")
    entries = [
        {"query": "multi", "entityid": 270, "frame": [31, 4, 124], "imgid": 4097},
        {"query": "sing", "entityid": 73, "frame": [4, 3, 2070], "imgid": 6},
    ]
    write(root, truth, json.dumps(entries))
    train, test = f"{images and 'atrw_reid_train/'}train", f"{images and 'atrw_reid_test/'}test"
    touch(root, f"{train}/000013.jpg", f"{train}/004096.jpg", f"{train}/000001.jpg")
    touch(root, f"{test}/000006.jpg", f"{test}/004097.jpg")
    return {
        "train": ["pid,fid", f"4,{train}/000013.jpg", f"112,{train}/004096.jpg"],
        "test": [
            "pid,fid,camera,group",
            f"73,{test}/000006.jpg,4_3,single_cam",
            f"270,{test}/004097.jpg,31_4,cross_cam",
        ],
    }


def atrw_by_archive(root):
    place = "ATRWEvalScript-main/annotations/gt_test_plain.json"
    return atrw(root, train="atrw_anno_reid_train/", images="archives", truth=place)


IMITATIONS = (
    market1501,
    duke,
    cuhk03_np,
    msmt17,
    msmt17_v2,
    veri776,
    cub200,
    cars196,
    cars196_devkit,
    sop,
    inshop,
    inshop_as_downloaded,
    vehicleid,
    atrw,
    atrw_by_archive,
)
each = pytest.mark.parametrize("imitation", IMITATIONS, ids=lambda imitation: imitation.__name__)


def builder_of(imitation):
    name = re.sub("_(v2|devkit|as_downloaded|by_archive)$", "", imitation.__name__)
    return importlib.import_module(f"data.{name}")


def run(builder, root, out):
    args = csv_builder.parse_args(builder.__doc__, [f"--image_root={root}", f"--directory={out}"])
    csv_builder.main(args, builder.build, builder.OFFICIAL)


@each
def test_the_csvs_list_what_the_folder_holds(imitation, tmp_path, capsys):
    root, out, builder = tmp_path / "set", tmp_path / "new" / "csvs", builder_of(imitation)
    expected = imitation(root)
    run(builder, root, out)
    assert {path.name: path.read_text().splitlines() for path in out.iterdir()} == {
        f"{name}.csv": rows for name, rows in expected.items()
    }
    assert expected.keys() >= builder.OFFICIAL.figures.keys()
    # Each can be loaded and its images are where it says; its figures are told, and that they are
    # not the published.
    printed, warned = capsys.readouterr()
    for name in expected:
        fids = dataset.load(out / f"{name}.csv").fids
        dataset.check_images(name, str(root), fids)
        assert f"{name}.csv: {len(fids)} images" in printed
        published = builder.OFFICIAL.figures.get(name)
        assert (f"{name}.csv differs from what was published: {published}." in warned) == (
            published is not None
        )


@each
def test_file_names_fit_the_excluder_of_the_set(imitation, tmp_path):
    builder = builder_of(imitation)
    imitation(tmp_path)
    parts = builder.build(str(tmp_path))
    if not builder.OFFICIAL.pattern:
        assert "--excluder diagonal" in " ".join(builder.__doc__.split())
        return
    excluder = common.load_plugin("excluders", builder.OFFICIAL.pattern).Excluder
    for rows in parts.values():
        fids = [fid for _, fid in rows]
        assert excluder(fids)(fids).diagonal().all()  # of the same pid in the same camera as itself


@each
def test_a_folder_of_something_else_is_told_and_nothing_is_written(imitation, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(
        common.UserError, match="there is no .* in --image_root .*other, which holds nothing"
    ):
        run(builder_of(imitation), tmp_path / "other", tmp_path / "csvs")
    assert not (tmp_path / "csvs").exists()


@pytest.mark.parametrize("imitation", IMITATIONS[3:], ids=lambda imitation: imitation.__name__)
def test_an_image_that_is_listed_but_missing_is_named(imitation, tmp_path):
    gone = imitation(tmp_path / "set")["train"][-1].split(",")[1]
    (tmp_path / "set" / gone).unlink()
    with pytest.raises(
        common.UserError, match=f"1 of the . images of .* are not in --image_root .*: {gone}"
    ):
        run(builder_of(imitation), tmp_path / "set", tmp_path / "csvs")
    assert not (tmp_path / "csvs").exists()


@pytest.mark.parametrize("imitation", IMITATIONS[:3], ids=lambda imitation: imitation.__name__)
def test_a_folder_of_other_images_is_told(imitation, tmp_path):
    imitation(tmp_path / "set")
    for path in list((tmp_path / "set").rglob("bounding_box_train/*")):
        path.rename(path.with_name("holiday.jpg"))
    with pytest.raises(
        common.UserError,
        match="has no image whose name begins with PID_c.*: among 1 files holiday.jpg",
    ):
        run(builder_of(imitation), tmp_path / "set", tmp_path / "csvs")
    assert not (tmp_path / "csvs").exists()


def test_the_figures_of_a_part(tmp_path, capsys):
    market1501(tmp_path / "set")
    touch(tmp_path / "set", "query/holiday.jpg", "query/holiday2.png")
    run(builder_of(market1501), tmp_path / "set", tmp_path)
    printed, warned = capsys.readouterr()
    assert "train.csv: 2 images, 2 pids, 2 cameras\n" in printed
    assert (
        "gallery.csv: 3 images, 1 pids, 2 cameras, 1 images of pid 0000, 1 images of pid -1\n"
        in printed
    )
    assert re.search(
        "2 images are left out: .* PID_cCsS_.*: query/holiday.jpg, query/holiday2.png\n", warned
    )


def test_a_set_of_the_published_size_is_not_warned_about(tmp_path, capsys):
    duke(tmp_path / "set")
    builder = builder_of(duke)
    figures = {"train": (1, 1, 1), "query": (1, 1, 1), "gallery": (2, 2, 2)}
    official = builder.OFFICIAL._replace(
        figures={name: csv_builder.Figures(*n) for name, n in figures.items()}
    )
    args = csv_builder.parse_args(
        builder.__doc__, [f"--image_root={tmp_path / 'set'}", f"--directory={tmp_path}"]
    )
    csv_builder.main(args, builder.build, official)
    assert capsys.readouterr().err == ""


def test_the_csvs_of_the_demos_data_are_those_it_came_with(tmp_path):
    synthetic.main(
        synthetic.parse_args([str(tmp_path / "made"), "--train_pids=2", "--test_pids=2"])
    )
    run(builder_of(market1501), tmp_path / "made", tmp_path / "csvs")
    for name in ("train.csv", "query.csv", "gallery.csv"):
        assert (tmp_path / "csvs" / name).read_text() == (tmp_path / "made" / name).read_text()


def test_images_for_multi_query_are_of_the_queries_persons_and_cameras(tmp_path, capsys):
    market1501(tmp_path / "set")
    names = [
        "0001_c1s1_001051_00.jpg",
        "0001_c1s2_002000_00.jpg",
        "0001_c2s1_000301_00.jpg",
        "0002_c1s1_000451_00.jpg",
    ]
    touch(tmp_path / "set", *(f"gt_bbox/{name}" for name in names))
    run(builder_of(market1501), tmp_path / "set", tmp_path)
    wanted = "".join(f"0001,gt_bbox/{name}\n" for name in names[:2])
    assert (tmp_path / "multi_query.csv").read_text() == wanted
    assert "multi_query.csv: 2 images, 1 pids, 1 cameras\n" in capsys.readouterr().out


def test_a_list_that_is_no_text_is_told(tmp_path):
    veri776(tmp_path)
    (tmp_path / "name_train.txt").write_bytes(b"0001_c001_\xe9.jpg\n")
    with pytest.raises(common.UserError, match="name_train.txt is not UTF-8 text"):
        builder_of(veri776).build(str(tmp_path))


def test_one_kind_of_boxes_is_enough_for_cuhk03(tmp_path):
    rows = cuhk03_np(tmp_path / "both")
    (tmp_path / "both" / "detected").rename(tmp_path / "detected")
    run(builder_of(cuhk03_np), tmp_path / "both", tmp_path / "csvs")
    assert {path.stem for path in (tmp_path / "csvs").iterdir()} == {
        name for name in rows if name.startswith("labeled")
    }


@pytest.mark.parametrize(
    ("imitation", "name", "lines", "message"),
    [
        (
            msmt17,
            "list_val.txt",
            ["0000/img.jpg 0"],
            "list_val.txt: .*PID_NUMBER_C_.*Received: '0000/img.jpg'",
        ),
        (veri776, "name_test.txt", [], "name_test.txt lists no image"),
        (
            cub200,
            "images.txt",
            ["1 a b.jpg"],
            "images.txt should have 2 columns. Received: '1 a b.jpg'",
        ),
        (
            cub200,
            "image_class_labels.txt",
            ["1 1"],
            "class of images/100.* should be a number. Received: ''",
        ),
        (
            sop,
            "Ebay_test.txt",
            ["a,b", "c"],
            "Ebay_test.txt should have 4 columns. Received: 'a,b'",
        ),
        (cars196, "cars_annos.mat", ["no MATLAB"], "cars_annos.mat cannot be read"),
        (
            inshop,
            "list_eval_partition.txt",
            ["1", "a header", "img/A/B/id_1/1.jpg id_1 test"],
            "img/A/B/id_1/1.jpg should be of train, query, gallery. Received: 'test'",
        ),
        (
            vehicleid,
            "train_test_split/test_list_1600.txt",
            ["0000013"],
            "test_list_1600.txt should have 2 columns. Received: '0000013'",
        ),
        (
            atrw,
            "reid_list_train.csv",
            ["4 000013.jpg"],
            "reid_list_train.csv should have 2 columns. Received: '4 000013.jpg'",
        ),
        (
            atrw,
            "gt_test_plain.json",
            ['[{"imgid": 3}]'],
            "gt_test_plain.json: an entry should have imgid, .* Received: {'imgid': 3}",
        ),
        (atrw, "gt_test_plain.json", ["[1"], "gt_test_plain.json is no JSON: .*"),
        (cars196_devkit, "devkit/cars_train_annos.mat", [], "cars_train_annos.mat cannot be read"),
    ],
)
def test_a_list_of_another_kind_is_told(imitation, name, lines, message, tmp_path):
    imitation(tmp_path)
    write(tmp_path, name, *lines)
    with pytest.raises(common.UserError, match=message):
        builder_of(imitation).build(str(tmp_path))


def test_cars_without_labels_of_the_test_images(tmp_path):
    cars196_devkit(tmp_path)
    array = np.array([("00001.jpg",)], [("fname", object)])
    scipy.io.savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": array})
    with pytest.raises(common.UserError, match="withlabels.mat .*has no classes.*class"):
        builder_of(cars196).build(str(tmp_path))


def test_cars_without_scipy(tmp_path, monkeypatch):
    cars196(tmp_path)
    builder = builder_of(cars196)
    monkeypatch.setattr(builder, "find_spec", lambda name: None)
    with pytest.raises(common.UserError, match="needs SciPy: pip install scipy"):
        builder.build(str(tmp_path))


def test_the_gallery_of_vehicleid_is_one_image_of_each_drawn_by_the_seed(tmp_path):
    vehicleid(tmp_path)
    builder = builder_of(vehicleid)
    parts = [builder.build(str(tmp_path), seed) for seed in range(9)]
    galleries = {row[1] for part in parts for row in part["gallery_2400"].rows}
    assert galleries == {f"image/00000{number}.jpg" for number in (11, 14, 15)}
    assert all(len(part["gallery_2400"].rows) == 1 for part in parts)
    args = builder.parse_args([f"--image_root={tmp_path}", f"--directory={tmp_path}", "--seed=3"])
    builder.main(args)
    written = dataset.load(tmp_path / "gallery_2400.csv")
    assert list(written.fids) == parts[3]["gallery_2400"].column("fid")


def test_builders_run_without_tensorflow(tmp_path):
    names = sorted({builder_of(imitation).__name__ for imitation in IMITATIONS})
    code = f"import sys, {', '.join(names)}\nsys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=common.HERE, timeout=60)
    rows = duke(tmp_path)
    flags = ["--image_root", str(tmp_path), "--directory", str(tmp_path / "csvs")]
    command = [sys.executable, "-m", "data.duke", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.count("images, ") == len(rows)


def test_a_directory_that_is_a_file(tmp_path):
    duke(tmp_path / "set")
    (tmp_path / "csvs").write_text("precious")
    with pytest.raises(FileExistsError):
        run(builder_of(duke), tmp_path / "set", tmp_path / "csvs")
    assert (tmp_path / "csvs").read_text() == "precious"


def test_folders_named_like_images_are_no_images(tmp_path):
    duke(tmp_path / "set")
    (tmp_path / "set/query/0009_c2_f0046985.jpg").mkdir()
    (tmp_path / "set/query/0010_c2_f0046985.jpg").symlink_to("0005_c2_f0046985.jpg")
    rows = builder_of(duke).build(str(tmp_path / "set"))["query"]
    assert [pid for pid, _ in rows] == ["0005", "0010"]


def test_file_names_that_are_no_utf_8_are_told_and_nothing_is_written(tmp_path):
    duke(tmp_path / "set")
    (tmp_path / "set/query" / os.fsdecode(b"0005_c2_f\xe9.jpg")).touch()
    with pytest.raises(
        common.UserError, match="1 of the 2 file names in .*query are not UTF-8: .*Rename the files"
    ):
        run(builder_of(duke), tmp_path / "set", tmp_path / "csvs")
    assert not (tmp_path / "csvs").exists()
