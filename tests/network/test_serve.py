"""network/serve.py, in a process of its own: a small load test on loopback, and its refusals."""

import asyncio
import json
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import small_network
from fastapi import Request
from image_kinds import oriented

import common
import embed
from benchmarks import serving
from data.dataset import load as load_dataset
from evaluation import embeddings_file, gallery_index
from network import serve, service
from network.service import Batches, Limits


@pytest.fixture(scope="module")
def experiment(dataset, tmp_path_factory):
    """An experiment with a gallery: an index of it, and a file of thresholds."""
    root = tmp_path_factory.mktemp("experiments") / "exp"
    small_network.write_experiment(
        root,
        image_root=str(dataset.root),
        crop_augment=True,
        metric="euclidean",
        orientation="exif",
    )
    argv = f"--experiment_root={root} --dataset={dataset.csv} --quiet --crop_augment=center"
    embed.main(embed.parse_args(argv.split()))
    return root


@pytest.fixture(scope="module")
def server(experiment, dataset):
    flags = [f"--experiment_root={experiment}", f"--gallery={dataset.csv}", "--max_images=3"]
    flags += ["--max_bytes=600000", "--max_pixels=100000", "--threshold=0.01", "--timeout=5"]
    with serving.serving(*flags) as server:
        yield server


@pytest.fixture(scope="module")
def contents(dataset):
    return [(dataset.root / fid).read_bytes() for fid in dataset.fids]


@pytest.fixture(scope="module")
def embs(experiment, dataset):
    return embeddings_file.load(experiment / "all_embeddings.h5", load_dataset(dataset.csv))


def test_images_are_embedded_as_embed_py_does(server, contents, embs, experiment, tmp_path):
    answer = server.post("/embed", contents[3])
    assert answer.status == 200 and answer.value["dim"] == 8
    np.testing.assert_allclose(answer.value["embeddings"], embs[3:4], rtol=1e-4, atol=1e-4)
    answer = server.post("/embed", *serving.form(contents[:3]))
    np.testing.assert_allclose(answer.value["embeddings"], embs[:3], rtol=1e-4, atol=1e-4)
    (tmp_path / "turned.jpg").write_bytes(oriented(6))
    wanted = embed.Embedder(experiment, crop_augment="center")([tmp_path / "turned.jpg"])
    answer = server.post("/embed", oriented(6))
    np.testing.assert_allclose(answer.value["embeddings"], wanted, rtol=1e-4, atol=1e-4)


def test_a_search_finds_what_is_nearest(server, contents, embs, dataset):
    answer = server.post("/search?top_k=40", *serving.form(contents[4:6]))
    for row, result in enumerate(answer.value["results"], 4):
        assert result["image"] == f"{row - 4}.jpg"
        dists = np.linalg.norm(embs - embs[row], axis=1)
        assert [found["rank"] for found in result["found"]] == list(range(1, 20))
        assert result["found"][0]["fid"] == dataset.fids[row]
        assert result["found"][0]["pid"] == dataset.pids[row]
        got = [found["distance"] for found in result["found"]]
        np.testing.assert_allclose(got, np.sort(dists), rtol=1e-3, atol=1e-3)
        assert [found["same"] for found in result["found"]] == [one < 0.01 for one in got]


def test_a_crop_is_a_part_of_the_image(server, contents):
    whole = server.post("/embed", contents[0]).value["embeddings"]
    crop = server.post("/embed?crop=0,0,16,24", contents[0]).value["embeddings"]
    part = server.post("/embed?crop=2,3,9,12", contents[0]).value["embeddings"]
    np.testing.assert_allclose(crop, whole, rtol=1e-5, atol=1e-6)
    assert not np.allclose(part, whole, rtol=0.01)


REFUSED = {
    "/embed?crop=0,0,17,24": (422, "the crop 0,0,17,24 is not within the image, 16 x 24"),
    "/embed?crop=1,2": (422, "crop should be whole pixels.*Received: 1,2"),
    "/search?top_k=0": (422, "top_k: .*greater than or equal to 1"),
    "/search?top_k=many": (422, "top_k: .*integer"),
    "/nothing": (404, "Not Found"),
    "/health": (405, "Method Not Allowed"),
}


@pytest.mark.parametrize("path", REFUSED)
def test_a_bad_request_is_told_in_one_line(path, server, contents):
    answer = server.post(path, contents[0])
    status, message = REFUSED[path]
    assert answer.status == status and list(answer.value) == ["error"]
    assert re.search(message, answer.value["error"]) and "\n" not in answer.value["error"]


def test_eight_clients_one_of_which_sends_garbage_and_bombs(server, contents, dataset):
    bad = serving.bad_requests(600_000, 3, contents[0])
    right, refused = [], []

    def send(number):
        place = number % len(contents)
        answer = server.post("/search", contents[place])
        assert answer.status == 200
        assert answer.value["results"][0]["found"][0]["fid"] == dataset.fids[place]
        right.append(number)

    def send_bad(number):
        status, body, kind = bad[number % len(bad)]
        answer = server.post("/search", body, kind)
        assert (answer.status, list(answer.value)) == (status, ["error"]), answer
        refused.append(number)

    send(0)
    before = server.peak()
    serving.load([send] * 7 + [send_bad], 200)
    for number in range(len(bad)):
        send_bad(number)
    assert len(right) + len(refused) == 201 + len(bad)
    # The 144 million pixels of a bomb would take 432 MB as RGB.
    assert server.peak() - before < 200
    assert server.metric("reid_gallery_images") == 19
    text = server.get("/metrics")
    assert 'reid_requests_total{path="/search",status="413"}' in text
    assert server.metric("reid_requests_running") == 0
    assert json.loads(server.get("/health"))["status"] == "ok"


def test_sigterm_finishes_what_runs(server, contents, dataset):
    values = serving.terminated_while_they_send(server, "/search", contents[:4])
    firsts = [value["results"][0]["found"][0]["fid"] for value in values]
    assert firsts == list(dataset.fids[:4])
    assert server.process.returncode == 128 + signal.SIGTERM


# ------------------------------------------------------------------------- without a server


def test_what_waits_is_embedded_together_and_an_error_is_told_to_all():
    sizes = []

    def double(images):
        sizes.append(len(images))
        if images.max() > 90:
            raise ValueError("too bright")
        return 2 * images

    async def ask():
        batches = Batches(double, most=5)
        rows = [[np.full(2, number)] * (1 + number % 3) for number in range(7)]
        asked = [batches.embed(some) for some in rows]
        answers = await asyncio.gather(*asked)
        for some, answer in zip(rows, answers, strict=True):
            np.testing.assert_array_equal(answer, 2 * np.array(some))
        with pytest.raises(ValueError, match="too bright"):
            await batches.embed([np.full(2, 99)])
        return await batches.embed([np.full(2, 1)] * 9)

    assert len(asyncio.run(ask())) == 9
    assert sum(sizes) == 13 + 1 + 9 and max(sizes[:-1]) <= 5 and len(sizes) < 9


@pytest.mark.parametrize(
    "limits, status, message",
    [
        (Limits(100, 1, 9, 0, 60), 503, "0 requests are running: try again later"),
        (Limits(100, 1, 9, 1, 0.01), 408, "did not come to its end in 0.01 s"),
    ],
)
def test_too_many_requests_and_bodies_without_end_are_refused(limits, status, message):
    async def never():
        await asyncio.Event().wait()

    async def ask():
        backend = SimpleNamespace(gallery=SimpleNamespace(embs=[]))
        scope = {"type": "http", "method": "POST", "headers": []}
        await service.Service(backend, limits).embedded(Request(scope, never), None)

    with pytest.raises(service.RefusedError, match=message) as refused:
        asyncio.run(ask())
    assert refused.value.status == status


def test_an_fpr_without_a_threshold_is_an_error(experiment, dataset, capsys):
    argv = [f"--experiment_root={experiment}", f"--gallery={dataset.csv}", "--threshold_at=EER"]
    with pytest.raises(SystemExit):
        serve.parse_args(argv)
    assert "--threshold_at: has no effect without --threshold" in capsys.readouterr().err


def test_bad_input_is_told_before_anything_slow(experiment, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(serve.like_gallery, "import_tensorflow", None)
    np.save(tmp_path / "wide.npy", np.ones((19, 9), np.float32))
    gallery_index.build(tmp_path / "index", np.ones((9, 8), np.float32), "euclidean", "flat")
    cases = {
        "embeddings have 9 numbers, those of .* 8": [f"--gallery_embeddings={tmp_path}/wide.npy"],
        "there is no checkpoint 'best'|there is no checkpoint-best": ["--checkpoint=best"],
        "is of other embeddings than the gallery's": [f"--index={tmp_path}/index"],
        "cannot listen on 203.0.113.1, port": ["--host=203.0.113.1"],
        "--threshold should be a number": ["--threshold=none.json"],
    }
    for message, flags in cases.items():
        argv = [f"--experiment_root={experiment}", f"--gallery={dataset.csv}", "--port=0", *flags]
        with pytest.raises(common.UserError, match=message):
            serve.main(serve.parse_args(argv))
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else name)
    with pytest.raises(common.UserError, match="serving needs fastapi. Call pip install fastapi"):
        serve.main(serve.parse_args(argv))
