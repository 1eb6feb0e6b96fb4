"""The time limit of a unit of work: nested, per thread, and only within its block."""

import math
import threading
import time
from contextlib import suppress

import pytest

from tests.unit.wire.faulty_server import FaultyServer, late, silence
from tests.unit.wire.faulty_server import answer as answers
from wire.client import Client, Limits
from wire.deadline import deadline, time_limit
from wire.errors import Unavailable

PATIENT = Limits(attempt=5.0, budget=5.0, tries=100, base=0.001)


def test_an_inner_limit_only_shortens() -> None:
    """The earlier end applies, and each block restores the limit before it, also after an error."""
    assert deadline() == math.inf
    with time_limit(10):
        outer = deadline()
        assert outer == pytest.approx(time.monotonic() + 10, abs=0.5)
        with suppress(ZeroDivisionError), time_limit(1):
            assert deadline() == pytest.approx(time.monotonic() + 1, abs=0.5)
            raise ZeroDivisionError
        with time_limit(100):
            assert deadline() == outer
        assert deadline() == outer
    assert deadline() == math.inf


def test_each_thread_has_its_own() -> None:
    """A request on one thread does not affect the limit on another."""
    found: list[float] = []
    with time_limit(1):
        thread = threading.Thread(target=lambda: found.append(deadline()))
        thread.start()
        thread.join()
    assert found == [math.inf]


@pytest.mark.parametrize("behaviour", [silence, late(0.06, answers(500))], ids=["one call", "retries"])
def test_calls_end_with_the_limit(behaviour: object) -> None:
    """A running call, its retries, and later calls, which are not sent."""
    with FaultyServer(behaviour) as server, time_limit(0.2):  # type: ignore[arg-type]
        client = Client(server.endpoint(), None, PATIENT)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.call("GET", "/")
        assert 0.1 < time.monotonic() - began < 4
        time.sleep(max(0.0, deadline() - time.monotonic()))
        sent = len(server.seen)
        with pytest.raises(Unavailable, match="no time was left"):
            client.call("GET", "/")
        assert len(server.seen) == sent
