"""A load test of network/serve.py on loopback: speed, right answers, refusals, memory, shutdown.

    python -m benchmarks.serving --experiment_root exp --gallery demo/data/gallery.csv \
        --query demo/data/query.csv --image_root demo/data

Some clients send images one by one, as fast as they are answered; the last one sends garbage, a
decompression bomb, too many images and too many bytes. Every answer is compared with that to a
request of its own. In the end SIGTERM comes while half of some bodies has been sent: all of these
are answered. The baseline is the same images by one client.
"""

import argparse
import contextlib
import http.client
import io
import json
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

import common
from data import dataset

_IMAGE = "application/octet-stream"


class Answer(NamedTuple):
    """What a request was answered."""

    status: int
    value: dict  # of its JSON
    seconds: float


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen, port: int):
        self.process = process
        self.port = port

    def post(self, path: str, body: bytes, kind: str = _IMAGE) -> Answer:
        """Send a body over a connection of its own."""
        began = time.perf_counter()
        with contextlib.closing(self.connect()) as connection:
            with contextlib.suppress(BrokenPipeError):  # it has answered before the end
                connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            value = json.loads(response.read())
        return Answer(response.status, value, time.perf_counter() - began)

    def get(self, path: str) -> str:
        """The text at a path."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def connect(self) -> http.client.HTTPConnection:
        """A connection that waits for a minute."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def metric(self, name: str) -> float:
        """A number without labels at /metrics."""
        return float(re.search(rf"^{name} (\S+)$", self.get("/metrics"), re.MULTILINE)[1])

    def peak(self) -> float:
        """The most memory of the process so far, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) / 1024


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[Server]:
    """A server that listens; ended at the end, where it still runs."""
    command = [sys.executable, "-m", "network.serve", "--port=0", *flags]
    process = subprocess.Popen(command, cwd=common.HERE, stderr=subprocess.PIPE, text=True)
    try:
        port = None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"Listening on http://.*:(\d+)", line):
                port = int(match[1])
                break
        if port is None:
            process.stderr.close()
            raise SystemExit("".join(lines))
        threading.Thread(target=_drain, args=(process.stderr,)).start()
        server = Server(process, port)
        while True:  # it listens a moment later
            with contextlib.suppress(ConnectionRefusedError):
                server.get("/health")
                break
            time.sleep(0.02)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _drain(stream: TextIO) -> None:
    """Read what is written to the end: who writes would wait else."""
    with stream:
        while stream.read(4096):
            pass


def form(contents: Sequence[bytes]) -> tuple[bytes, str]:
    """Files as multipart/form-data: body and Content-Type."""
    body = b""
    for number, content in enumerate(contents):
        body += b'--limit\r\nContent-Disposition: form-data; name="images"; '
        body += b'filename="%d.jpg"\r\nContent-Type: image/jpeg\r\n\r\n%s\r\n' % (number, content)
    return body + b"--limit--\r\n", "multipart/form-data; boundary=limit"


def bomb(side: int = 12_000) -> bytes:
    """A PNG of side × side gray pixels, all black, which takes few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    packer = zlib.compressobj(1)
    packed = io.BytesIO()
    for _ in range(side):
        packed.write(packer.compress(b"\0" * (side + 1)))
    packed.write(packer.flush())
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", packed.getvalue()) + chunk(b"IEND", b"")


def bad_requests(most_bytes: int, most_images: int, image: bytes) -> list[tuple[int, bytes, str]]:
    """Requests that are refused: the status that each gets, body and Content-Type."""
    return [
        (415, b"garbage", _IMAGE),
        (413, bomb(), "image/png"),
        (413, b"\0" * (most_bytes + 1), _IMAGE),
        (413, *form([image] * (most_images + 1))),
        (422, image[: len(image) // 2], "image/jpeg"),
        (422, b"", "image/jpeg"),
        (400, b"garbage", "multipart/form-data; boundary=limit"),
        (415, b"{}", "application/json"),
    ]


def load(clients: Sequence[Callable[[int], None]], requests: int) -> float:
    """Let clients answer for so many requests together, each for the next one.

    Args:
        clients: called with the number of a request, in a thread for each.

    Returns:
        Seconds.

    Raises:
        Whatever a client raises first.
    """
    numbers = iter(range(requests))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def work(client: Callable[[int], None]) -> None:
        try:
            while not errors:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                client(number)
        except BaseException as error:
            errors.append(error)

    began = time.perf_counter()
    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - began


def terminated_while_they_send(server: Server, path: str, bodies: Sequence[bytes]) -> list[dict]:
    """What requests are answered of which only half was there when SIGTERM came; waits for its end."""
    connections = [server.connect() for _ in bodies]
    for connection, body in zip(connections, bodies, strict=True):
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", _IMAGE)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[: len(body) // 2])
    while server.metric("reid_requests_running") < len(bodies):
        time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(ConnectionError):
        while True:  # until it takes no new ones any more
            server.get("/health")
    values = []
    for connection, body in zip(connections, bodies, strict=True):
        connection.send(body[len(body) // 2 :])
        response = connection.getresponse()
        values.append(json.loads(response.read()))
        connection.close()
    server.process.wait(timeout=60)
    return values


# ------------------------------------------------------------------------- the command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = common.make_parser(__doc__)
    parser.prog = "python -m benchmarks.serving"
    common.add_flag(parser, "experiment_root")
    parser.add_argument("--gallery", required=True, type=common.readable_file, metavar="FILE")
    parser.add_argument(
        "--query",
        required=True,
        type=common.readable_file,
        metavar="CSV",
        help="The images to send: a CSV of pid,fid.",
    )
    common.add_flag(parser, "image_root", required=True)
    parser.add_argument("--clients", type=common.integer(2), default=8, metavar="N")
    parser.add_argument("--requests", type=common.positive_int, default=200, metavar="N")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    images = dataset.load(args.query, "query")
    paths = images.paths(args.image_root)[: args.requests]
    contents = [Path(path).read_bytes() for path in paths]
    flags = [f"--experiment_root={args.experiment_root}", f"--gallery={args.gallery}"]
    with serving(*flags, "--max_bytes=1000000", "--max_images=8") as server:
        _measure(server, contents, args)


def _measure(server: Server, contents: list[bytes], args: argparse.Namespace) -> None:
    expected = [_names(server.post("/search", content).value) for content in contents]
    bad = bad_requests(1_000_000, 8, contents[0])
    before = server.peak()
    refused = []

    def send_bad(number: int) -> None:
        status, body, kind = bad[number % len(bad)]
        answer = server.post("/search", body, kind)
        assert (answer.status, list(answer.value)) == (status, ["error"]), answer
        refused.append(answer.value["error"])

    for clients in (1, args.clients):
        seconds = []

        def send(number: int, seconds: list[float] = seconds) -> None:
            place = number % len(contents)
            answer = server.post("/search", contents[place])
            assert answer.status == 200 and _names(answer.value) == expected[place], answer
            seconds.append(answer.seconds)

        senders = [send] if clients == 1 else [send] * (clients - 1) + [send_bad]
        took = load(senders, args.requests)
        p50, p99 = 1000 * np.percentile(seconds, [50, 99])
        print(
            f"{clients} clients: {len(seconds)} right answers, {len(refused)} refusals, {len(seconds) / took:.0f} "
            f"images/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )
    for why in sorted(set(refused)):
        print(f"    refused: {why}")
    print(f"{before:.0f} MiB at the peak before the load, {server.peak():.0f} MiB after it")
    values = terminated_while_they_send(server, "/search", contents[: args.clients])
    right = sum(_names(one) == other for one, other in zip(values, expected, strict=False))
    print(f"SIGTERM: {right} of {len(values)} requests that ran were answered right")


def _names(value: dict) -> list[str]:
    return [found["fid"] for found in value["results"][0]["found"]]


if __name__ == "__main__":
    common.run(main, parse_args)
