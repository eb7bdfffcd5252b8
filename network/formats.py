"""The network of an experiment in the formats of other programs; export.py tells what they hold."""

import contextlib
import gc
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common import UserError, reason
from data.decoding import decode_exportable
from experiment import args_json
from network import checkpoints, pretrained
from network.embedder import Embedder
from runtime import version

# Objects before a collection, as of gc.set_threshold; all generations each time.
_COLLECTING_OFTEN = (10_000, 1, 1)


def write_saved_model(embedder: Embedder, directory: Path) -> None:
    """Write directory/saved_model: from images of any size, or files, to embeddings."""

    def embed(images):
        return {"emb": embedder.network(images, training=False)["emb"]}

    def prepare(image):
        return embedder.views(image)[0]

    def decode_and_prepare(encoded):
        image = decode_exportable(encoded, embedder.flags.upright, embedder.at_least)
        return prepare(image)

    prepared = tf.TensorSpec([*embedder.size, 3], tf.float32)

    def from_images(images):
        return embed(tf.map_fn(prepare, images, fn_output_signature=prepared))

    def from_files(image_bytes):
        return embed(tf.map_fn(decode_and_prepare, image_bytes, fn_output_signature=prepared))

    archive = keras.export.ExportArchive()
    archive.track(embedder.network)
    # The first is serving_default, too. TF Serving takes names that end in _bytes as base64.
    any_images = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    files = tf.TensorSpec([None], tf.string, "image_bytes")
    archive.add_endpoint("images", from_images, [any_images])
    archive.add_endpoint("encoded", from_files, [files])
    archive.write_out(str(directory / "saved_model"), verbose=False)


def write_onnx(embedder: Embedder, directory: Path) -> None:
    """Write directory/model.onnx, by Keras and tf2onnx.

    Raises:
        UserError: the network has an operation that ONNX lacks.
    """
    import onnx  # one of the packages that only this format needs

    path = directory / "model.onnx"
    # It logs every optimization that it could not do.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # Keras adapts tf2onnx to NumPy 2.
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
        with _in_little_memory():
            _write_network(embedder, path, "onnx")
    # tf2onnx does not stop at operations that ONNX lacks, and turns constants outside of the graph
    # into inputs.
    problem: object
    try:
        onnx.checker.check_model(str(path))
        problem = {spec.name for spec in onnx.load(str(path)).graph.input} - {"images"}
    except onnx.checker.ValidationError as error:
        problem = error
    if problem:
        raise UserError(
            f"{embedder.flags.model_name} cannot be exported to ONNX: {' '.join(str(problem).split())}. Leave onnx out."
        )


@contextlib.contextmanager
def _in_little_memory() -> Iterator[None]:
    """A context in which tf2onnx holds few copies of the weights.

    After each optimization it puts all constants into the protocol buffers of their nodes anew,
    where nobody reads them: what was there before is not freed, so here they are left out. And its
    graphs refer to themselves, so that those it is done with stay until garbage is collected: here,
    that is often, without looking at what was there before.
    """
    from tf2onnx.graph import Node

    update_any = Node.update_proto

    def update(node, *args, **options):
        if not node.is_const():
            update_any(node, *args, **options)

    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTING_OFTEN)
    Node.update_proto = update
    try:
        yield
    finally:
        Node.update_proto = update_any
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()


def write_litert(embedder: Embedder, directory: Path) -> None:
    """Write directory/model.tflite, by Keras and TensorFlow's converter."""
    _write_network(embedder, directory / "model.tflite", "litert")


def write_safetensors(embedder: Embedder, directory: Path) -> None:
    """Write directory/model.safetensors: the variables by their names in checkpoints, in our layout."""
    from safetensors.numpy import save  # one of the packages that only this format needs

    variables = checkpoints.named_variables(embedder.network)
    tensors = {
        name: np.ascontiguousarray(variable)
        for name, variable in variables.items()
        if not name.endswith(pretrained.RANDOM_STATE)
    }
    metadata = {
        "made_by": f"triplet-reid {version.version()}",
        "checkpoint": Path(embedder.checkpoint).name,
        "weights": embedder.weights or "raw",
        "flags": json.dumps(args_json.shareable(embedder.flags), sort_keys=True),
    }
    (directory / "model.safetensors").write_bytes(save(tensors, metadata))


def _write_network(embedder: Embedder, path: Path, kind: str) -> None:
    """From float32 images of the network's input size to embeddings."""
    network = keras.Model(embedder.network.inputs, {"emb": embedder.network.output["emb"]})
    images = keras.InputSpec(shape=(None, *embedder.size, 3), dtype="float32", name="images")
    network.export(str(path), format=kind, input_signature=[images], verbose=False)


# By the values of export.py's --formats.
WRITERS: dict[str, Callable[[Embedder, Path], None]] = {
    "saved_model": write_saved_model,
    "onnx": write_onnx,
    "litert": write_litert,
    "safetensors": write_safetensors,
}


def write(name: str, embedder: Embedder, directory: Path) -> None:
    """Write one of WRITERS.

    Raises:
        UserError: the disk is full, say, or the network cannot be had in this format.
    """
    try:
        WRITERS[name](embedder, directory)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"cannot write {name}: {reason(error)}. Nothing of it was left. Make room there, and for the temporary "
            f"files of the converters in {tempfile.gettempdir()}, then call again."
        ) from None
