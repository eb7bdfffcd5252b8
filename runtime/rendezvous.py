"""The workers of a job wait for each other, and say for whom.

TensorFlow waits, too, but says nothing, for an hour, and neither Ctrl-C nor a thread can end that. So
each worker first listens at its address until it has reached every other one: at this listener, or
at the server that TensorFlow opens there afterwards.
"""

import contextlib
import socket
import time
from collections.abc import Sequence

import common
from common import UserError
from runtime.terminal import log

# Seconds that a worker waits for the others: until it says so, and in all.
SILENT = 10.0
LONGEST = 600.0


def meet(addresses: Sequence[str], index: int) -> None:
    """Wait until all workers are there, at most LONGEST seconds.

    Args:
        addresses: host:port of every worker.
        index: the number of this one.

    Raises:
        UserError when some stay away, and when this worker's port is not free.
    """
    began = time.monotonic()
    has_said = False
    missing = [address for number, address in enumerate(addresses) if number != index]
    with _listening(addresses[index]):
        while missing := [address for address in missing if not _answers(address)]:
            waited = time.monotonic() - began
            named = common.first_few(missing)
            if waited > LONGEST:
                raise UserError(
                    f"the workers of the job did not get together within {LONGEST:g} seconds. "
                    f"Missing: {named}. Start all of them, within reach of each other; to work "
                    "alone, give --strategy one."
                )
            if waited > SILENT and not has_said:
                has_said = True
                log.warning(
                    f"Waiting for {len(missing)} of {len(addresses)} workers: {named}. (This one is "
                    f"number {index}, {addresses[index]}.) To work alone, give --strategy one."
                )
            time.sleep(0.2)


@contextlib.contextmanager
def _listening(address: str):
    """Within the context this worker can be reached at its port; nothing that comes is read."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"this worker's address {address} cannot be used: {common.reason(error)}. Give a port "
            "that is free; to work alone, give --strategy one."
        ) from None
    with listener:
        yield


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2) as connection:
            # Linux lets a socket reach itself where nobody listens.
            return connection.getsockname() != connection.getpeername()
    except (OSError, OverflowError, UnicodeError):
        return False
