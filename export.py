"""Export the network of an experiment for other programs: as SavedModel, ONNX, LiteRT or safetensors.

    python export.py --experiment_root exp --directory exported
    python export.py --experiment_root exp --directory exported --formats saved_model onnx litert
    python export.py --experiment_root exp --directory exported --formats safetensors

All weights and the normalization of images are inside. A network that was trained with
--camera_embeddings takes the mean of them for every image. DIRECTORY then holds, by format,

    saved_model/    for TensorFlow and TF Serving. Its signatures give {"emb": float32 [N, D]}:
                    images (also serving_default): {"images": uint8 RGB [N, H, W, 3]} of any size;
                    encoded: {"image_bytes": string [N]}, JPEG, PNG, GIF, BMP or WebP files of any
                    sizes, but for the few that docs/data.md names. Both resize images, and crop
                    them where asked to, as embed.py does.
    model.onnx      for ONNX Runtime and others. images -> emb: float32 RGB 0..255 [N, H, W, 3] of
                    the network's input size, resized by the caller. Writing it needs the extra
                    "export" of pyproject.toml.
    model.tflite    for LiteRT (TensorFlow Lite), without operations beyond its own. As model.onnx.
    model.safetensors
                    the weights by our names, with the flags as metadata: for train.py
                    --initial_checkpoint, and for other programs that read weights. Takes the package
                    safetensors.
    README.md       beside model.safetensors, and with --push_to_hub: a model card.
"""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import common
from common import UserError
from experiment import flags
from network import hub
from runtime import files, terminal
from runtime.tensorflow import import_tensorflow
from runtime.terminal import log

# The names of --formats, and what each writes.
FORMATS = {
    "saved_model": "saved_model",
    "onnx": "model.onnx",
    "litert": "model.tflite",
    "safetensors": "model.safetensors",
}
# The packages that formats need beyond the requirements, and the extra that has them.
_PACKAGES = {"onnx": (("tf2onnx", "onnx"), "export"), "safetensors": (("safetensors",), "pytorch")}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    flags.add_experiment_flags(parser)
    group = parser.add_argument_group("export")
    group.add_argument(
        "--directory", required=True, metavar="DIR", help="Directory to write to, new or empty."
    )
    group.add_argument(
        "--formats",
        nargs="+",
        choices=tuple(FORMATS),
        default=["saved_model"],
        help="What to write: saved_model takes images of any size, or image files; onnx and litert take images of the "
        "network's input size; safetensors holds the weights alone. onnx and safetensors need more packages: pip "
        'install -e ".[export,pytorch]" in the project.',
    )
    group.add_argument(
        "--crop_augment",
        choices=("center", "avgpool"),
        help="As in embed.py: resize to the pre_crop size of the training, then embed the crop of the net_input size "
        "at the center, or the whole image (avgpool). Without this flag, resize to the net_input size.",
    )
    group.add_argument(
        "--push_to_hub",
        metavar="OWNER/NAME",
        help="Also upload the directory to this repository of Hugging Face, with a model card. A new one is private. "
        "Takes the package huggingface_hub, and a login (hf auth login).",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Check all that can be wrong before anything slow and before anything is written; export."""
    terminal.setup_logging("export")
    _check_directory(args.directory)
    _check_packages(args.formats)
    if args.push_to_hub is not None:
        hub.create(args.push_to_hub)
    # Already here, so that a second call for the same directory ends at once.
    with files.complete_directory(args.directory) as directory:
        import_tensorflow()
        from network import formats
        from network.embedder import Embedder
        from reports import model_card

        embedder = Embedder(
            args.experiment_root,
            args.checkpoint,
            weights=args.weights,
            crop_augment=args.crop_augment,
            **flags.architecture_flags(args),
        )
        log.info(f"Exporting {embedder.source} as {', '.join(args.formats)}.")
        if embedder.flags.camera_numbers:
            log.info("Images count as of no known camera: as of the mean of --camera_embeddings.")
        for name in dict.fromkeys(args.formats):
            formats.write(name, embedder, directory)
        if "safetensors" in args.formats or args.push_to_hub is not None:
            network = model_card.Network(
                flags=embedder.flags,
                checkpoint=Path(embedder.checkpoint).name,
                weights=embedder.weights,
                formats=list(dict.fromkeys(args.formats)),
                crop_augment=args.crop_augment,
                repository=args.push_to_hub,
            )
            card = model_card.text(args.experiment_root, network)
            (directory / "README.md").write_text(card, encoding="utf-8")
    written = sorted(os.listdir(args.directory))
    log.info(f"Wrote {', '.join(written)} to {args.directory}.")
    if args.push_to_hub is not None:
        hub.push(args.push_to_hub, args.directory)
        log.info(f"Uploaded {args.directory} to {args.push_to_hub}.")


def _check_directory(directory: str) -> None:
    path = Path(directory).absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            f"--directory {directory} exists and is no empty directory. Give one that is new or empty."
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"--directory {directory} cannot be written: {path.parent} is no writeable directory."
        )


def _check_packages(formats: list[str]) -> None:
    for name, (packages, extra) in _PACKAGES.items():
        missing = [package for package in packages if not find_spec(package)]
        if name in formats and missing:
            raise UserError(
                f'--formats {name} needs {" and ".join(missing)}: pip install -e ".[{extra}]" in the project\'s '
                f"directory, or leave {name} out."
            )


if __name__ == "__main__":
    common.run(main, parse_args)
