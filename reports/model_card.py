"""README.md beside an exported network, as Hugging Face and people read it: a model card."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
from experiment import args_json, evaluations, flags, provenance, validations
from experiment.flags import Architecture, Settings
from runtime import version

_HEAD = """---
library_name: triplet-reid
pipeline_tag: image-feature-extraction
tags:
- re-identification
- metric-learning
---
<!-- Add a license, and what the network may be used for. -->
"""

_LOADING = {
    "saved_model": """`saved_model/` takes files of images, or with the signature `images` uint8 RGB [N, H, W, 3] of any
size, and resizes them itself:

```python
import tensorflow as tf

embed = tf.saved_model.load("saved_model").signatures["encoded"]
emb = embed(image_bytes=tf.constant([open("image.jpg", "rb").read()]))["emb"]  # float32 [N, {D}]
```
""",
    "onnx": """`model.onnx` takes float32 RGB in 0..255 of [N, {height}, {width}, 3], and normalizes it itself:

```python
import onnxruntime

emb = onnxruntime.InferenceSession("model.onnx").run(["emb"], {{"images": images}})[0]  # float32 [N, {D}]
```
""",
    "litert": """`model.tflite` takes float32 RGB in 0..255 of [N, {height}, {width}, 3], and normalizes it itself:

```python
from ai_edge_litert.interpreter import Interpreter

emb = Interpreter("model.tflite").get_signature_runner()(images=images)["emb"]  # float32 [N, {D}]
```
""",
    "safetensors": """`model.safetensors` has the weights by their names in triplet-reid, and the flags as metadata.
Another training can begin with those of the net:

```sh
python train.py --experiment_root new --train_set mine.csv --image_root mine --model_name {net} \\
    --initial_checkpoint {source}
```
""",
}


class Network(NamedTuple):
    """What was exported.

    Attributes:
        flags: its architecture, or all flags of its training.
        checkpoint: the name of the checkpoint.
        weights: which of its weights, in words; None where there is one kind.
        formats: as export.py names them.
        crop_augment: of what view of an image it is, as export.py names it.
        repository: owner/name on Hugging Face, if it goes there.
    """

    flags: Architecture
    checkpoint: str
    weights: str | None
    formats: Sequence[str]
    crop_augment: str | None = None
    repository: str | None = None


def text(experiment_root: str | Path, network: Network) -> str:
    """The card: what it is, its data, its figures, how to load it, its flags."""
    root = Path(experiment_root)
    parts = [
        _HEAD,
        f"# {_plain(root.resolve().name)}\n",
        _what(network),
        "## Data\n",
        _data(root),
        "## Figures\n",
        _figures(root, network.flags),
        "## How to load it\n",
        *_loading(network),
        "## Flags\n",
        _flags(network.flags),
    ]
    return "\n".join(parts)


def _what(network: Network) -> str:
    architecture = network.flags
    metric = architecture.metric_to_evaluate if isinstance(architecture, Settings) else None
    rows = {
        "network": f"`{architecture.model_name}` with the head `{architecture.head_name}`",
        "embedding": f"{architecture.embedding_dim} numbers"
        + (f", compared by {metric}" if metric else ""),
        "images": _images(network),
        **_cameras(architecture),
        "weights": network.checkpoint + (f", {network.weights}" if network.weights else ""),
        "made by": f"triplet-reid for TensorFlow 2, version {version.version()}",
    }
    sentence = "This network turns an image into numbers, such that images of one identity are close together."
    return f"{sentence}\n\n{_table([('', ''), *rows.items()])}"


def _images(network: Network) -> str:
    flags = network.flags
    resized = flags.pre_crop_size if network.crop_augment else flags.net_size
    words = "RGB, resized to {} by {} pixels (height by width)".format(*resized)
    if network.crop_augment == "center":
        words += ", of which the {} by {} at the center are taken".format(*flags.net_size)
    return words


def _cameras(architecture: Architecture) -> dict[str, str]:
    if not architecture.camera_numbers:
        return {}
    return {"cameras": "images count as of no known camera, the mean of those of the training"}


def _data(root: Path) -> str:
    """What provenance.json says of the newest run's data."""
    try:
        runs = provenance.read(root)
    except ValueError:
        runs = []
    if not runs:
        return "The experiment does not say what it was trained on.\n"
    rows: list[Sequence[Any]] = [("flag", "file", "images", "identities", "SHA-256")]
    for name, data in runs[-1]["data"].items():
        csvs = [(Path(csv["path"]).name, csv["sha256"]) for csv in data["csv"]]
        files, digests = zip(*csvs, strict=True)
        rows.append((f"`{name}`", ", ".join(files), data["rows"], data["pids"], ", ".join(digests)))
    return _table(rows)


def _figures(root: Path, architecture: Architecture) -> str:
    rows: list[Sequence[Any]] = [("evaluated on", "how", "mAP", "top-1")]
    for found in evaluations.read(root):
        figures = f"{found.mean_ap:.1%}", f"{found.top_1:.1%}"
        rows.append((found.kind.data, found.kind.words, *figures))
    if isinstance(architecture, Settings) and architecture.validates:
        best = validations.best(validations.read(root, architecture.val_metric))
        if best:
            what = f"best validation: {architecture.val_metric} {best.value:.1%} at iteration {best.iteration}"
            rows.append((what, "while training", "", ""))
    return _table(rows) if len(rows) > 1 else "Nothing was evaluated in the experiment.\n"


def _loading(network: Network) -> list[str]:
    whole = network.crop_augment == "avgpool"
    height, width = network.flags.pre_crop_size if whole else network.flags.net_size
    repository = network.repository
    values = {
        "D": network.flags.embedding_dim,
        "height": height,
        "width": width,
        "net": network.flags.model_name,
        "source": f"hf:{repository}" if repository else "model.safetensors",
    }
    return [_LOADING[name].format(**values) for name in network.formats]


def _flags(architecture: Architecture) -> str:
    stored = args_json.shareable(architecture)
    differing = {name: value for name, value in stored.items() if value != flags.default(name)}
    words = flags.command_line(differing)
    return f"Those that are not the defaults:\n\n```\n{common.visible(' '.join(words))}\n```\n"


def _table(rows: Sequence[Sequence[Any]]) -> str:
    head, *body = [[_plain(str(cell)) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _plain(words: str) -> str:
    """Text from outside, for a line of Markdown."""
    return re.sub(r"([|<>])", r"\\\1", common.visible(words))
