"""Embed images that come by HTTP, and find the nearest images of a gallery.

    python -m network.serve --experiment_root exp --gallery gallery.csv
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/search?top_k=5'

docs/search_and_serve.md has the requests and answers. This needs the extra "serve" of
pyproject.toml. There is neither encryption nor a password: put it behind a proxy that has them.
"""

import argparse
import os
import socket

# As in evaluate.py: the threads of evaluation/ keep the cores busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from importlib.util import find_spec

import common
from common import UserError
from evaluation import gallery as galleries
from evaluation.gallery import Gallery
from experiment import flags
from network import like_gallery, search_flags, view_flags
from runtime import terminal
from runtime.terminal import log

_PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
_PACKAGES |= {"prometheus_client": "prometheus-client"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m network.serve"
    group = parser.add_argument_group("experiment")
    common.add_flag(group, "experiment_root")
    flags.add_checkpoint_flags(group)
    group = parser.add_argument_group("search")
    search_flags.add_gallery(group)
    search_flags.add_index(group)
    search_flags.add_metric(group)
    search_flags.add_threshold(group)
    common.add_flag(group, "batch_size", help="Largest number of queries compared at a time.")
    _add_server(parser)
    _add_limits(parser)
    view_flags.add_for_queries(parser)
    args = view_flags.parse_args(parser, argv)
    search_flags.check_threshold(parser, args)
    return args


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="Address to listen on. 0.0.0.0 is every address of the machine: only behind a proxy or in a container.",
    )
    group.add_argument(
        "--port",
        type=common.integer(0, most=65535),
        default=8000,
        metavar="N",
        help="Port to listen on. 0 takes one that is free, which the log tells.",
    )
    group.add_argument(
        "--grace",
        type=common.positive_int,
        default=30,
        metavar="SECONDS",
        help="How long requests that run may take after SIGTERM or Ctrl-C. New ones are not taken any more.",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max_bytes",
        type=common.positive_int,
        default=16 * 2**20,
        metavar="N",
        help="Largest body of a request.",
    )
    group.add_argument(
        "--max_pixels",
        type=common.positive_int,
        default=25_000_000,
        metavar="N",
        help="Largest image. Its header is asked, before anything is decoded.",
    )
    group.add_argument(
        "--max_images",
        type=common.positive_int,
        default=32,
        metavar="N",
        help="Most images in a request.",
    )
    group.add_argument(
        "--max_requests",
        type=common.positive_int,
        default=32,
        metavar="N",
        help="Most requests at a time; more are answered by 503. Each may hold three times --max_bytes in memory.",
    )
    group.add_argument(
        "--timeout",
        type=common.positive_float,
        default=30.0,
        metavar="SECONDS",
        help="How long the body of a request may take to come.",
    )


def main(args: argparse.Namespace) -> None:
    """Check all that can be wrong before anything slow; serve until a signal comes."""
    terminal.setup_logging("serve")
    _check_packages()
    gallery = galleries.load(args.gallery, args.gallery_embeddings, args.experiment_root)
    metric = search_flags.metric(args)
    threshold = search_flags.threshold(args, gallery, metric)
    plan = _plan(args, gallery)
    with _listening(args.host, args.port) as listener:
        searcher = search_flags.searcher(args, gallery, metric)
        embedder = plan.make_embedder()
        if plan.trained.camera_numbers:
            log.info("Images count as of no known camera: as of the mean of --camera_embeddings.")
        import numpy as np
        import uvicorn

        from network.service import Backend, Limits, make_app

        resized = plan.trained.pre_crop_size if plan.views.crop_augment else plan.trained.net_size
        searcher.search(embedder.embed_loaded(np.zeros((1, *resized, 3), np.float32)), 1)  # traces
        limits = Limits(
            args.max_bytes, args.max_images, args.max_pixels, args.max_requests, args.timeout
        )
        app = make_app(Backend(embedder, gallery, searcher, threshold), limits)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=args.grace,
        )
        host, port = listener.getsockname()[:2]
        log.info(f"Serving {len(gallery.embs)} images with {plan.checkpoint}.")
        log.info(f"Listening on http://{host}:{port}")
        uvicorn.Server(config).run([listener])


def _check_packages() -> None:
    missing = [package for module, package in _PACKAGES.items() if not find_spec(module)]
    if missing:
        raise UserError(
            f"serving needs {' and '.join(missing)}. Call pip install {' '.join(missing)}."
        )


def _plan(args: argparse.Namespace, gallery: Gallery) -> like_gallery.Plan:
    views = view_flags.given(args)
    return like_gallery.plan(
        args.experiment_root,
        gallery.origin,
        gallery.embs.shape[1],
        args.checkpoint,
        args.weights,
        views if any(views) else None,
    )


def _listening(host: str, port: int) -> socket.socket:
    """A socket with its address taken. Raises: UserError where that cannot be had."""
    listener = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise UserError(
            f"cannot listen on {host}, port {port}: {error.strerror}. Give another --host or --port."
        ) from None
    return listener


if __name__ == "__main__":
    common.run(main, parse_args)
