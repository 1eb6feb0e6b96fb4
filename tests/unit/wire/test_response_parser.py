"""A response means the same however the network splits it; ambiguous ones are refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.errors import TooLarge, TransportError
from wire.response_parser import ResponseParser

BODY = b'{"Item":{"pk":{"S":"a\r\n\r\nb"}}}'
WHOLE = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8;x=y\r\n%b\r\n%x\r\n%b\r\n0\r\nT: 1\r\n\r\n"
    % (BODY[:8], len(BODY) - 8, BODY[8:]),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
}
DAMAGED = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\n{}",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "folded header": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n X: 1\r\n\r\n{}",
    "bare line end": b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\n{}",
    "line feed in a header": b"HTTP/1.1 200 OK\r\nX: 1\nContent-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
    "carriage return in a header": b"HTTP/1.1 200 OK\r\nX: 1\rContent-Length: 9\r\nContent-Length: 2\r\n\r\n{}",
    "null in a header": b"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\n{}",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\nContent-Length: 2\r\n\r\n{}",
    "another protocol": b"SSH-2.0-x\r\n\r\n",
    "bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "bad chunk end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
    "chunk without its end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\n\n0\r\n\r\n",
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE.keys())
@given(cuts=st.lists(st.integers(0, 200)))
def test_pieces_do_not_matter(data: bytes, cuts: list[int]) -> None:
    """Fed at once, byte by byte or in any pieces, the response is complete with its last byte, and always the same."""
    parser = ResponseParser("POST", 1000)
    places = sorted({cut for cut in cuts if cut < len(data)} - {0})
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert [parser.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (parser.response.status, parser.response.body) == (200, BODY)
    assert parser.keeps_open


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_invalid_response_is_refused(data: bytes) -> None:
    """A response that is not unambiguous HTTP/1.1 is an error of the transport."""
    with pytest.raises(TransportError):
        ResponseParser("POST", 1000).feed(data)


@pytest.mark.parametrize("head", [b"Content-Length: 1001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n"])
def test_large_response_is_refused_before_it_is_received(head: bytes) -> None:
    """The body is not received to find that it is too large."""
    with pytest.raises(TooLarge):
        ResponseParser("POST", 1000).feed(b"HTTP/1.1 200 OK\r\n" + head)


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_bytes_after_a_response_end_the_connection(more: bytes) -> None:
    """Bytes that belong to no request would be taken for the next response."""
    parser = ResponseParser("POST", 1000)
    assert parser.feed(WHOLE["length"] + more)
    assert not parser.keeps_open


@given(st.binary(max_size=300))
def test_no_other_error_is_raised(noise: bytes) -> None:
    """Any bytes are a response, the beginning of one, or one of our errors."""
    for data in (noise, b"HTTP/1.1 200 OK\r\n" + noise, WHOLE["chunks"][:60] + noise):
        with contextlib.suppress(TransportError, TooLarge):
            ResponseParser("GET", 1000).feed(data)
