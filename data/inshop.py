"""Write the CSVs of DeepFashion In-shop Clothes Retrieval: train, query, gallery.

    python -m data.inshop --image_root In-shop --directory inshop

The folder holds list_eval_partition.txt, here or in Eval/, and the images, img/WOMEN/... and
img/MEN/..., here or in Img/. The column group is the kind of clothes, such as WOMEN/Dresses. No
query is in the gallery, and all of the gallery counts: evaluate with --excluder diagonal.
"""

from common import UserError
from data import csv_builder
from data.csv_builder import Figures, Official

OFFICIAL = Official(
    {
        "train": Figures(25882, 3997),
        "query": Figures(14218, 3985),
        "gallery": Figures(12612, 3985),
    }
)
LIST = "list_eval_partition.txt"


def build(root: str) -> csv_builder.Parts:
    source = csv_builder.first_of(root, f"Eval/{LIST}", LIST)
    folder = csv_builder.first_of(root, "Img/img", "img").removesuffix("img")
    # Before the images stand their number and a header: image_name item_id evaluation_status.
    lines = csv_builder.read_list(root, source, columns=3, skipped=2)
    rows: dict[str, csv_builder.Rows] = {name: [] for name in OFFICIAL.figures}
    for path, item, part in lines:
        if part not in rows:
            raise UserError(
                f"{source}: {path} should be of {', '.join(rows)}. Received: {part!r}. Is it the original list?"
            )
        rows[part].append((item, folder + path))
    return {name: _with_groups(csv_builder.listed(root, source, rows[name])) for name in rows}


def _with_groups(rows: csv_builder.Rows) -> csv_builder.Table:
    # .../img/WOMEN/Dresses/id_00000002/02_1_front.jpg
    groups = ["/".join(fid.split("/")[-4:-2]) for _, fid in rows]
    pids = [pid for pid, _ in rows]
    fids = [fid for _, fid in rows]
    return csv_builder.with_columns(pids, fids, {"group": groups})


if __name__ == "__main__":
    csv_builder.run(__doc__, build, OFFICIAL)
