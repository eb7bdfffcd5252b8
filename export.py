"""Export the network of an experiment for other programs: as SavedModel, ONNX or LiteRT.

    python export.py --experiment_root exp --directory exported
    python export.py --experiment_root exp --directory exported --formats saved_model onnx litert

All weights and normalisation are inside. DIRECTORY then holds, by format,

    saved_model/    for TensorFlow and TF Serving. Signatures, each of which gives {"emb": float32 [N, D]}:
                    images (also serving_default): {"images": uint8 RGB [N, H, W, 3]} of any size
                    encoded: {"image_bytes": string [N]}, JPEG, PNG, GIF, BMP or WebP files of any
                    sizes both resize, and crop where asked to, as embed.py does
    model.onnx      for ONNX Runtime and others. images -> emb: float32 RGB 0..255 [N, H, W, 3] of the network's input
                    size, resized by the caller. Needs the extra "export" of pyproject.toml here
    model.tflite    for LiteRT (TensorFlow Lite), without operations beyond its own. As model.onnx
"""

import argparse
import logging
import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

import common
import embed
from common import UserError
from runtime import terminal

FORMATS = ("saved_model", "onnx", "litert")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    embed.add_experiment_flags(parser)
    group = parser.add_argument_group("export")
    group.add_argument(
        "--directory", required=True, metavar="DIR", help="Where to write; new or empty."
    )
    group.add_argument(
        "--formats",
        nargs="+",
        choices=FORMATS,
        default=["saved_model"],
        help="saved_model takes images of any size, or image files; onnx and litert take those of the network's "
        'input size. onnx needs more packages: pip install -e ".[export]" in the project.',
    )
    group.add_argument(
        "--crop_augment",
        choices=("center", "avgpool"),
        help="As of embed.py: resize to the pre_crop size of the training, and embed the crop of the net_input size at "
        "the center, or all of the image (avgpool). Without, resize to the net_input size.",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    # What can be wrong is found here, before anything slow and before anything is written.
    directory = Path(args.directory).absolute()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UserError(
            f"--directory {args.directory} exists and is no empty directory. Give one that is new or empty."
        )
    if not os.access(directory.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"--directory {args.directory} cannot be written: {directory.parent} is no writeable directory."
        )
    missing = [
        name for name in ("tf2onnx", "onnx") if "onnx" in args.formats and not find_spec(name)
    ]
    if missing:
        raise UserError(
            f'--formats onnx needs {" and ".join(missing)}: pip install -e ".[export]" in the project\'s directory, or '
            "leave onnx out."
        )

    embedder = embed.Embedder(
        args.experiment_root,
        args.checkpoint,
        crop_augment=args.crop_augment,
        **embed.architecture_flags(args),
    )
    log = terminal.setup_logging("export")
    for warning in embedder.warnings:
        log.warning(warning)
    log.info(f"Exporting {embedder.checkpoint} as {', '.join(args.formats)}.")

    # The directory appears under its name only when all of it is there.
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        for kind in dict.fromkeys(args.formats):
            {"saved_model": write_saved_model, "onnx": write_onnx, "litert": write_litert}[kind](
                embedder, partial
            )
        os.replace(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info(
        f"Wrote {', '.join(sorted(path.name for path in directory.iterdir()))} to {args.directory}."
    )


def write_saved_model(embedder: embed.Embedder, directory: Path) -> None:
    """directory/saved_model: images of any size, or files, to embeddings."""
    import keras
    import tensorflow as tf

    from data import images as image_data

    def emb(images):
        return {"emb": embedder.network(images, training=False)["emb"]}

    def prepared(image):
        return embedder.variants(image)[0]

    def each(function, inputs):
        spec = tf.TensorSpec([*embedder.size, 3], tf.float32)
        return tf.map_fn(function, inputs, fn_output_signature=spec)

    def from_images(images):
        return emb(each(prepared, images))

    def from_files(image_bytes):
        return emb(each(lambda encoded: prepared(image_data.decode(encoded)), image_bytes))

    archive = keras.export.ExportArchive()
    archive.track(embedder.network)
    # The first is serving_default, too. TF Serving takes names that end in _bytes as base64.
    archive.add_endpoint(
        "images", from_images, [tf.TensorSpec([None, None, None, 3], tf.uint8, "images")]
    )
    archive.add_endpoint("encoded", from_files, [tf.TensorSpec([None], tf.string, "image_bytes")])
    archive.write_out(str(directory / "saved_model"), verbose=False)


def write_onnx(embedder: embed.Embedder, directory: Path) -> None:
    """directory/model.onnx, by Keras and tf2onnx: images of the network's input size to embeddings."""
    import onnx

    path = directory / "model.onnx"
    logging.getLogger("tf2onnx").setLevel(
        logging.CRITICAL
    )  # it tells of every optimisation that it could not do
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "In the future `np.object`", FutureWarning
        )  # Keras mends tf2onnx for NumPy 2
        _write_network(embedder, path, "onnx")
    # tf2onnx goes on after operations that ONNX has not, and makes inputs of constants outside of
    # the graph.
    try:
        onnx.checker.check_model(str(path))
        problem = {spec.name for spec in onnx.load(str(path)).graph.input} - {"images"}
    except onnx.checker.ValidationError as error:
        problem = error
    if problem:
        raise UserError(
            f"{embedder.flags.model_name} cannot be exported to ONNX: {' '.join(str(problem).split())}. Leave onnx out."
        )


def write_litert(embedder: embed.Embedder, directory: Path) -> None:
    """directory/model.tflite, by Keras and TensorFlow's converter: images of the network's input
    size to embeddings.
    """
    _write_network(embedder, directory / "model.tflite", "litert")


def _write_network(embedder: embed.Embedder, path: Path, kind: str) -> None:
    import keras

    network = keras.Model(embedder.network.inputs, {"emb": embedder.network.output["emb"]})
    images = keras.InputSpec(shape=(None, *embedder.size, 3), dtype="float32", name="images")
    network.export(str(path), format=kind, input_signature=[images], verbose=False)


if __name__ == "__main__":
    common.run(main, parse_args)
