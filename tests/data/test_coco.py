"""The CSV of annotations in COCO's format."""

import json

import pytest

import common
from data import coco, dataset

IMAGES = [
    {"id": 1, "file_name": "a/1.jpg", "width": 100, "height": 50, "location": "north"},
    {"id": "2", "file_name": "a/2.jpg", "width": 100, "height": 50, "location": 7},
    {"id": 3, "file_name": "b/3.jpg", "location": "north"},
]
CATEGORIES = [{"id": 4, "name": "tiger"}, {"id": 5, "name": "lynx"}]


def annotation(number, image, category, bbox, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox} | more


ANNOTATIONS = [
    annotation(10, 1, 4, [0, 0, 100, 50], individual="T1"),
    annotation(11, 1, 5, [10.2, 5.5, 20.3, 10], attributes={"individual": 12}),
    annotation(12, "2", 4, [1.0000001, 2, 3, 4.0000001], individual="T1"),
    annotation(13, "2", 4, [0, 0, 9, 9], iscrowd=1),
    annotation(14, 3, 4, [5000, 0, 7, 9], individual="T2"),
]
CONTENT = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES}


def run(tmp_path, content=CONTENT, *flags):
    root, out = tmp_path / "images", tmp_path / "csvs"
    for image in IMAGES:
        (root / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        (root / image["file_name"]).touch()
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "file.json").write_text(text)
    argv = [f"--annotations={tmp_path / 'file.json'}", f"--image_root={root}", f"--directory={out}"]
    coco.main(coco.parse_args([*argv, *flags]))
    return (out / "all.csv").read_text().splitlines()


def with_annotations(*annotations):
    return CONTENT | {"annotations": list(annotations)}


def test_a_row_for_each_annotation_with_its_box(tmp_path, capsys):
    assert run(tmp_path) == [
        "pid,fid,x1,y1,x2,y2",
        "tiger,a/1.jpg,0,0,100,50",
        "lynx,a/1.jpg,10,5,31,16",
        "tiger,a/2.jpg,1,2,4,6",
        "tiger,b/3.jpg,5000,0,5007,9",
    ]
    told, logged = capsys.readouterr()
    assert "all.csv: 4 images, 2 pids, with boxes\n" in told
    assert "1 annotations of crowds (iscrowd) are left out." in logged
    boxes = dataset.load(tmp_path / "csvs" / "all.csv").boxes
    assert boxes[1].tolist() == [10, 5, 31, 16]


def test_keys_that_have_identity_and_camera(tmp_path):
    flags = ("--pid_key=individual", "--camera_key=location", "--group=^(.)")
    assert run(tmp_path, CONTENT, *flags)[:3] == [
        "pid,fid,group,camera,x1,y1,x2,y2",
        "T1,a/1.jpg,a,north,0,0,100,50",
        "12,a/1.jpg,a,north,10,5,31,16",
    ]


def test_some_categories(tmp_path):
    assert run(tmp_path, CONTENT, "--categories", "lynx")[1:] == ["lynx,a/1.jpg,10,5,31,16"]
    with pytest.raises(
        common.UserError, match="no category 'tigr'. Meant: tiger. It has lynx, tig"
    ):
        run(tmp_path, CONTENT, "--categories", "tigr")


def test_split_at_once(tmp_path):
    twice = [*ANNOTATIONS, annotation(15, 3, 5, [0, 0, 5, 5])]
    run(tmp_path, with_annotations(*twice), "--split")
    names = {path.stem for path in (tmp_path / "csvs").iterdir()}
    assert names == {"all", "train", "query", "gallery"}


def test_images_without_boxes_are_taken_whole(tmp_path, capsys):
    labels = [
        {"id": 1, "image_id": 1, "category_id": 4},
        {"id": 2, "image_id": 3, "category_id": 5},
    ]
    assert run(tmp_path, with_annotations(*labels)) == ["pid,fid", "tiger,a/1.jpg", "lynx,b/3.jpg"]
    assert "has a bbox: the images are taken whole" in capsys.readouterr().err


BAD_BOXES = [
    [90, 0, 20, 10],
    [-5, 0, 20, 10],
    [10, 10, 0, 5],
    [10, 10, 5, -5],
    [0, 40, 10, 12],
    [1, 2, 3],
    ["1", 2, 3, 4],
    [1, 2, 3, 1e300],
    [200, 0, 5, 5],
    None,
]
CLIPPED = ["90,0,100,10", "0,0,15,10", None, None, "0,40,10,50", None, None, None, None, None]


@pytest.mark.parametrize(("bbox", "clipped"), list(zip(BAD_BOXES, CLIPPED, strict=True)))
def test_bad_boxes(bbox, clipped, tmp_path, capsys):
    good = annotation(8, 1, 4, [1, 1, 2, 2])
    content = with_annotations(good, annotation(9, 1, 5, bbox))
    with pytest.raises(
        common.UserError, match=r"1 boxes are not .* id 9, .* in a/1.jpg of 100x50. Correct"
    ):
        run(tmp_path, content)
    assert not (tmp_path / "csvs").exists()
    rows = ["tiger,a/1.jpg,1,1,3,3"]
    assert run(tmp_path, content, "--on_bad_box=skip")[1:] == rows
    assert (
        "1 boxes are not within their image; 1 of them are left out: the" in capsys.readouterr().err
    )
    rows += [f"lynx,a/1.jpg,{clipped}"] if clipped else []
    assert run(tmp_path, content, "--on_bad_box=clip")[1:] == rows


def test_boxes_are_allowed_to_be_beyond_the_image_by_less_than_a_pixel(tmp_path):
    content = with_annotations(annotation(1, 1, 4, [-0.4, -0.9, 100.9, 51.2]))
    assert run(tmp_path, content)[1:] == ["tiger,a/1.jpg,0,0,100,50"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[1, 2", "file.json is no JSON: "),
        ("[" * 100000, "file.json is no JSON: "),
        ("[]", "should be a JSON object with the lists .* Received: list"),
        (
            {"images": []},
            "should have a list images, .* Its keys are images, annotations, categories",
        ),
        (
            {"images": [{"id": 1}]},
            "each of images should have an id and a file_name. Received: {'id'",
        ),
        ({"images": IMAGES + IMAGES[:1]}, "two of images have the id 1: a/1.jpg and a/1.jpg"),
        ({"annotations": {}}, "Its annotations are no list of objects"),
        ({"annotations": []}, "has no annotation that counts"),
        (
            {"annotations": [annotation(1, 9, 4, [0, 0, 1, 1])]},
            "id 1 is of an image that .* Received: 9",
        ),
        ({"annotations": [annotation(1, [], 4, [0, 0, 1, 1])]}, "id 1 is of an image that is not"),
        (
            {"annotations": [annotation(1, 1, 9, [0, 0, 1, 1])]},
            "id 1 is of a category .* Received: 9",
        ),
        ({"categories": []}, "has no categories, which are the identities. Give --pid_key"),
    ],
)
def test_files_of_another_kind(change, message, tmp_path):
    content = CONTENT | change if isinstance(change, dict) else change
    with pytest.raises(common.UserError, match=message):
        run(tmp_path, content)
    assert not (tmp_path / "csvs").exists()


def test_keys_that_are_missing_or_odd(tmp_path):
    with pytest.raises(
        common.UserError, match=r"id 10 should have indvidual, .*Received: None. Meant: individual"
    ):
        run(tmp_path, CONTENT, "--pid_key=indvidual")
    odd = with_annotations(annotation(1, 1, 4, [0, 0, 1, 1], individual=1.5))
    with pytest.raises(common.UserError, match=r"id 1 should have individual.* Received: 1.5"):
        run(tmp_path, odd, "--pid_key=individual")
    with pytest.raises(
        common.UserError, match="--camera and --camera_key say the same in two ways"
    ):
        run(tmp_path, CONTENT, "--camera=(a)", "--camera_key=location")


def test_images_that_are_missing_or_elsewhere(tmp_path):
    for name, message in (("a/9.jpg", "are not in --image_root"), ("../x.jpg", "are not below")):
        images = [IMAGES[0] | {"file_name": name}, *IMAGES[1:]]
        with pytest.raises(common.UserError, match=f"1 of the 3 images of .*{message}.*{name}"):
            run(tmp_path, CONTENT | {"images": images})
