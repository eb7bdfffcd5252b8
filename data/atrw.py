"""Write the CSVs of ATRW, Amur tigers (plain re-ID): train and test.

    python -m data.atrw --image_root ATRW --directory atrw

The folder holds the archives of the re-ID track, each unpacked in a folder of its name, or all in
one: atrw_reid_train/train/, atrw_anno_reid_train/reid_list_train.csv, atrw_reid_test/test/; and the
authors' ATRWEvalScript, of which annotations/gt_test_plain.json counts. An identity is one side of
a tiger. Test images are queries and gallery at once: give test.csv for both, and --excluder
diagonal. Its column group has the two figures of the authors: single_cam are images of identities
that one camera saw, cross_cam those of several. The authors also ignore images of the same camera
within three frames of the query, which diagonal does not.
"""

import os

from common import UserError
from data import csv_builder
from data.csv_builder import Figures, Official

# The number of test images was published as 1762 and as 1764.
OFFICIAL = Official({"train": Figures(1887, 107)})
TRUTH = "ATRWEvalScript-main/annotations/gt_test_plain.json"
GROUPS = {"sing": "single_cam", "multi": "cross_cam"}


def build(root: str) -> csv_builder.Parts:
    return {"train": _train(root), "test": _test(root)}


def _train(root: str) -> csv_builder.Table:
    name = "reid_list_train.csv"
    source = csv_builder.first_of(root, f"atrw_anno_reid_train/{name}", name)
    folder = csv_builder.first_of(root, "atrw_reid_train/train", "train")
    lines = csv_builder.read_list(root, source, columns=2, separator=",")
    rows = csv_builder.listed(root, source, [(pid, f"{folder}/{file}") for pid, file in lines])
    return csv_builder.Table(("pid", "fid"), rows)


def _test(root: str) -> csv_builder.Table:
    places = [
        TRUTH,
        TRUTH.replace("-main", "-master"),
        TRUTH.replace("-main", ""),
        os.path.basename(TRUTH),
    ]
    source = csv_builder.first_of(root, *(f"eval_script/{place}" for place in places), *places)
    folder = csv_builder.first_of(root, "atrw_reid_test/test", "test")
    pids, fids, cameras, groups = [], [], [], []
    for entry in csv_builder.read_json(os.path.join(root, source)):
        try:
            place, camera, _ = entry["frame"]
            fids.append(f"{folder}/{int(entry['imgid']):06d}.jpg")
            pids.append(str(int(entry["entityid"])))
            groups.append(GROUPS[entry["query"]])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{source}: an entry should have imgid, entityid, frame (three numbers) and query (sing or multi). "
                f"Received: {entry!r}. Is it the original?"
            ) from None
        cameras.append(f"{place}_{camera}")
    csv_builder.listed(root, source, zip(pids, fids, strict=True))
    more = {"camera": cameras, "group": groups}
    return csv_builder.in_order(csv_builder.with_columns(pids, fids, more))


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
