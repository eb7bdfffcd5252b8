import socket
import threading

import pytest

from common import UserError
from runtime import rendezvous, terminal


@pytest.fixture
def addresses():
    """Three that nobody listens at."""
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return found


def test_all_meet_whoever_comes_first(addresses):
    met = []

    def work(index):
        rendezvous.meet(addresses, index)
        met.append(index)
        # As TensorFlow's server does, which takes the port over.
        with rendezvous._listening(addresses[index]):
            all_met.wait(timeout=30)

    all_met = threading.Barrier(3)
    threads = [threading.Thread(target=work, args=(index,)) for index in (2, 0, 1)]
    threads[0].start()
    threads[1].start()
    threads[1].join(0.5)
    assert met == []
    threads[2].start()
    for thread in threads:
        thread.join(30)
    assert sorted(met) == [0, 1, 2]


def test_who_is_missing_is_named_and_the_wait_has_an_end(addresses, monkeypatch, capfd):
    monkeypatch.setattr(rendezvous, "SILENT", 0.1)
    monkeypatch.setattr(rendezvous, "LONGEST", 1.0)
    terminal.setup_logging("train")
    with (
        rendezvous._listening(addresses[2]),
        pytest.raises(UserError, match="within 1 seconds. Missing: ") as error,
    ):
        rendezvous.meet(addresses, 0)
    assert addresses[1] in str(error.value) and addresses[2] not in str(error.value)
    (line,) = capfd.readouterr().err.splitlines()
    assert f"Waiting for 1 of 3 workers: {addresses[1]}." in line and "--strategy one" in line


def test_a_port_that_is_taken_is_told(addresses):
    with (
        rendezvous._listening(addresses[0]),
        pytest.raises(UserError, match=f"{addresses[0]} cannot be used: Address already in use"),
    ):
        rendezvous.meet(addresses, 0)


@pytest.mark.parametrize("address", ["no such host.example:1", "127.0.0.1:99999", "a" * 300 + ":1"])
def test_an_address_that_cannot_be(address):
    assert not rendezvous._answers(address)
