"""The order in which the addresses of a name are used."""

import socket
from typing import Any
from unittest.mock import Mock

import pytest

from tests.unit.wire.faulty_server import FaultyServer
from wire.addresses import Address, Addresses, look_up, spread
from wire.endpoint import Endpoint

FIRST: list[Address] = [(socket.AF_INET6, (f"fd00::{number}", 443, 0, 0)) for number in range(3)]
OTHER: list[Address] = [(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in range(2)]


def test_each_address_of_the_first_family_can_begin() -> None:
    """The share determines where to begin; every address is in the order once."""
    orders = [spread([*FIRST, *OTHER], share) for share in (0.0, 0.34, 0.67, 0.999)]
    assert [FIRST.index(order[0]) for order in orders] == [0, 1, 2, 2]
    assert all(sorted(order) == sorted([*FIRST, *OTHER]) for order in orders)


def test_the_resolver_s_preference_of_a_family_is_kept() -> None:
    """RFC 6724: the family that comes first is more likely to work, so another one is only for its failure."""
    for share in (0.0, 0.5, 0.999):
        assert spread([FIRST[0], OTHER[0], FIRST[1], OTHER[1]], share)[2:] == OTHER


def test_a_name_is_looked_up_once_a_minute() -> None:
    """By the caller's clock; a new look-up forgets which addresses have failed."""
    with FaultyServer() as one, FaultyServer(host="127.0.0.2") as other, pytest.MonkeyPatch.context() as patch:
        found, asked = [(socket.AF_INET, one.address), (socket.AF_INET, other.address)], list[tuple[object, ...]]()

        def look_up(*arguments: object) -> list[Address]:
            asked.append(arguments)
            return list(found)

        patch.setattr("wire.addresses.look_up", look_up)
        patch.setattr("wire.addresses.draw", lambda: 0.5)
        addresses = Addresses(one.endpoint(), 1.5)
        used = []
        for now, count in ((100.0, 1), (159.99, 1), (160.0, 2), (219.99, 2), (220.0, 3)):
            connection, address = addresses.connect(now)
            connection.close()
            used.append(found.index(address))
            assert len(asked) == count
            addresses.fail(address)
        assert asked == [("127.0.0.1", one.port, 1.5)] * 3
        assert used == [1, 0, 1, 0, 1], "half of the way through, and away from what failed"


def test_a_new_look_up_gives_each_address_another_chance() -> None:
    """Also if not all of them have failed; connections are spread evenly over those that have not."""
    with FaultyServer() as one, FaultyServer(host="127.0.0.2") as other, FaultyServer(host="127.0.0.3") as third:
        found = [(socket.AF_INET, server.address) for server in (one, other, third)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("wire.addresses.look_up", lambda *_: list(found))
            patch.setattr("wire.addresses.draw", lambda: 0.0)
            addresses = Addresses(one.endpoint(), 1.0)
            used = []
            for now in (-5.0, -4.0, -3.0, -2.0, 55.0, 55.5, 56.0):
                connection, address = addresses.connect(now)
                connection.close()
                used.append(found.index(address))
                if now == -5.0:
                    assert not addresses.fail(address)
    assert used == [0, 1, 2, 1, 0, 1, 2]


def test_an_address_that_failed_is_used_again_when_all_have() -> None:
    """Addresses that failed are avoided as long as there are others; an unknown family counts as failed."""
    with FaultyServer() as one, FaultyServer(host="127.0.0.2") as other, pytest.MonkeyPatch.context() as patch:
        found = [(socket.AF_APPLETALK, ()), (socket.AF_INET, one.address), (socket.AF_INET, other.address)]
        patch.setattr("wire.addresses.look_up", lambda *_: found)
        addresses = Addresses(one.endpoint(), 1.0)
        used = []
        for _ in range(5):
            connection, address = addresses.connect(0.0)
            connection.close()
            used.append(found.index(address))
            if len(used) == 2:
                assert not addresses.fail(found[1])
        assert used == [1, 2, 2, 2, 2]
        assert addresses.fail(found[2])
        connection, address = addresses.connect(0.0)
        connection.close()
        assert address == found[1]


def test_a_name_that_is_not_resolved_in_time_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up again with the next connection."""
    with FaultyServer() as server:
        found: list[Any] = [TimeoutError(), [(socket.AF_INET, server.address)]]
        monkeypatch.setattr("wire.addresses.look_up", Mock(side_effect=found))
        addresses = Addresses(server.endpoint(), 1.0)
        with pytest.raises(TimeoutError, match=r"^its host name was not resolved in time$"):
            addresses.connect(0.0)
        connection, _ = addresses.connect(0.0)
        connection.close()


def test_a_name_whose_addresses_all_fail_at_once_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them was tried once; with the next connection, each is tried again."""
    found = [(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in range(3)]
    begin = Mock(side_effect=OSError(101, "unreachable"))
    monkeypatch.setattr("wire.addresses.look_up", lambda *_: list(found))
    monkeypatch.setattr("wire.addresses._begin", begin)
    addresses = Addresses(Endpoint("dynamodb", "x", "name.example", 443, tls=True), 1.0)
    for times in (3, 6):
        with pytest.raises(OSError, match="unreachable"):
            addresses.connect(0.0)
        assert begin.call_count == times
    assert {call.args[0] for call in begin.call_args_list} == set(found)


def test_the_system_s_resolver_is_waited_for_in_a_thread() -> None:
    """Its addresses are those of TCP; a name that it does not know is an error of the system."""
    assert (socket.AF_INET, ("127.0.0.1", 443)) in look_up("127.0.0.1", 443, 10)
    assert len(look_up("127.0.0.1", 443, 10)) == 1
    for name in ("no-such-name.invalid", "a" * 64 + ".invalid", "\ud800"):
        with pytest.raises(OSError, match=r"."):
            look_up(name, 443, 10)
