"""What the head of a response says about its body and its connection."""

from __future__ import annotations

import pytest

from wire.errors import TooLarge, TransportError
from wire.head import MAX_CHUNK_LINE, MAX_HEAD, Head, parse_chunk_size, parse_head
from wire.response_parser import ResponseParser

LENGTH, CHUNKED = "Content-Length: 5", "Transfer-Encoding: chunked"
# method, version, status, headers -> (length, is_chunked, keeps_open)
HEADS: tuple[tuple[str, str, int, list[str], tuple[int | None, bool, bool]], ...] = (
    ("POST", "1.1", 200, [LENGTH], (5, False, True)),
    ("POST", "1.1", 200, ["content-length: 5"], (5, False, True)),
    ("POST", "1.1", 200, ["CONTENT-LENGTH:5"], (5, False, True)),
    ("POST", "1.1", 200, ["Content-Length: \t5 \t"], (5, False, True)),
    ("POST", "1.1", 200, [LENGTH, LENGTH], (5, False, True)),  # the same length twice counts once
    ("POST", "1.1", 200, ["Content-Length: 0"], (0, False, True)),
    ("POST", "1.1", 200, [CHUNKED], (None, True, True)),
    ("POST", "1.1", 200, ["TRANSFER-ENCODING: Chunked"], (None, True, True)),
    ("POST", "1.1", 200, [], (None, False, True)),
    ("GET", "1.1", 404, [LENGTH], (5, False, True)),
    ("GET", "1.1", 599, [LENGTH], (5, False, True)),
    ("GET", "1.1", 100, [], (None, False, True)),
    # no body, whatever the headers say about the one that a GET or another status would have (RFC 9112 section 6.3)
    ("HEAD", "1.1", 200, [LENGTH], (0, False, True)),
    ("HEAD", "1.1", 200, [CHUNKED], (0, False, True)),
    ("GET", "1.1", 204, [LENGTH], (0, False, True)),
    ("GET", "1.1", 204, [CHUNKED], (0, False, True)),
    ("GET", "1.1", 304, [LENGTH], (0, False, True)),
    ("GET", "1.1", 304, [], (0, False, True)),
    ("GET", "1.1", 203, [LENGTH], (5, False, True)),
    ("GET", "1.1", 205, [LENGTH], (5, False, True)),
    ("GET", "1.1", 303, [LENGTH], (5, False, True)),
    ("head", "1.1", 200, [LENGTH], (5, False, True)),  # methods are case-sensitive
    # the connection
    ("POST", "1.0", 200, [LENGTH], (5, False, False)),
    ("POST", "1.0", 200, [LENGTH, "Connection: keep-alive"], (5, False, False)),
    ("POST", "1.1", 200, [LENGTH, "Connection: close"], (5, False, False)),
    ("POST", "1.1", 200, [LENGTH, "CONNECTION: CLOSE"], (5, False, False)),
    ("POST", "1.1", 200, [LENGTH, "connection: Keep-Alive,Close"], (5, False, False)),
    ("POST", "1.1", 200, [LENGTH, "Connection: close , upgrade"], (5, False, False)),
    ("POST", "1.1", 200, [LENGTH, "Connection: keep-alive", "Connection: close"], (5, False, False)),
    ("POST", "1.1", 200, [LENGTH, "Connection: closed"], (5, False, True)),
    ("POST", "1.1", 200, [LENGTH, "Connection: not-close"], (5, False, True)),
    ("POST", "1.1", 200, [LENGTH, "X-Connection: close"], (5, False, True)),
)  # fmt: skip


@pytest.mark.parametrize(("method", "version", "status", "headers", "expected"), HEADS)
def test_head(
    method: str, version: str, status: int, headers: list[str], expected: tuple[int | None, bool, bool]
) -> None:
    """Where the body ends, and whether the connection can be used again."""
    head = parse_head("\r\n".join([f"HTTP/{version} {status} X", *headers]).encode(), method)
    assert head == Head(status, head.headers, *expected)
    assert list(head.headers) == list(dict.fromkeys(line.partition(":")[0].lower() for line in headers))


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
@pytest.mark.parametrize("header", [LENGTH, CHUNKED])
def test_no_body_is_waited_for_if_there_is_none(method: str, status: int, header: str) -> None:
    """The response ends with its head; bytes after it do not belong to it."""
    head = f"HTTP/1.1 {status} X\r\n{header}\r\n\r\n".encode()
    parser = ResponseParser(method, 100)
    assert parser.feed(head)
    assert (parser.response.status, parser.response.body, parser.keeps_open) == (status, b"", True)
    parser = ResponseParser(method, 100)
    assert parser.feed(head + b"hello")
    assert not parser.keeps_open


REFUSED = {
    "another coding": "Transfer-Encoding: gzip",
    "a coding before the chunks": "Transfer-Encoding: gzip, chunked",
    "a coding after the chunks": "Transfer-Encoding: chunked, gzip",
    "chunked twice": "Transfer-Encoding: chunked, chunked",
    "identity": "Transfer-Encoding: identity",
    "identity and a length": "Transfer-Encoding: identity\r\nContent-Length: 5",
    "no coding": "Transfer-Encoding:",
    "a parameter": "Transfer-Encoding: chunked;x=1",
    "almost chunked": "Transfer-Encoding: xchunked",
    "quoted": 'Transfer-Encoding: "chunked"',
    "a coding of its own header": "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    "a length after chunks": "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "two lengths": "Content-Length: 5\r\nContent-Length: 6",
    "two spellings of a length": "Content-Length: 5\r\nContent-Length: 05",
    "two lengths in one": "Content-Length: 5, 5",
    "no number": "Content-Length: five",
    "an empty length": "Content-Length:",
    "a negative length": "Content-Length: -5",
    "a hexadecimal length": "Content-Length: 0x5",
    "a fraction": "Content-Length: 5.0",
    "digits of another script": "Content-Length: \u0665",
    "a huge length": "Content-Length: 1" + "0" * 15,
    "no name": ": x",
    "no colon": "Content-Length 5",
    "a name with a blank": "Content Length: 5",
    "a name of other characters": "Cont\u00e9nt: 5",
}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED.keys())
def test_an_ambiguous_head_is_refused(header: str) -> None:
    """If the body ended elsewhere for another parser, the rest would be the response to the next request."""
    with pytest.raises(TransportError):
        parse_head(f"HTTP/1.1 200 X\r\n{header}".encode(), "POST")


LINES = {
    "HTTP/1.1 200 OK": 200,
    "HTTP/1.1 200 ": 200,
    "HTTP/1.1 200": 200,
    "HTTP/1.0 100 \u00e9": 100,
    "HTTP/1.1 599 a b": 599,
    "HTTP/1.2 200 OK": None,
    "HTTP/2 200 OK": None,
    "HTTP/1.1 099 OK": None,
    "HTTP/1.1 600 OK": None,
    "HTTP/1.1 2000 OK": None,
    "HTTP/1.1 20 OK": None,
    "HTTP/1.1  200 OK": None,
    "http/1.1 200 OK": None,
    " HTTP/1.1 200 OK": None,
    "HTTP/1.1 200 O\x00K": None,
    "HTTP/1.1 200OK": None,
    "": None,
}


@pytest.mark.parametrize(("line", "status"), LINES.items())
def test_status_line(line: str, status: int | None) -> None:
    """RFC 9112 section 4: version, three digits, and a reason that can be empty."""
    if status is None:
        with pytest.raises(TransportError):
            parse_head(line.encode("latin-1"), "GET")
    else:
        assert parse_head(line.encode("latin-1"), "GET").status == status


CHUNKS = {
    b"0": 0, b"00": 0, b"5": 5, b"a": 10, b"A": 10, b"1f": 31, b"5;name=value": 5, b'5 ; x="y"': 5, b"5 \t": 5,
    b"f" * 15: 16**15 - 1,
    b"": None, b" 5": None, b"0x5": None, b"-5": None, b"+5": None, b"5_0": None, b"g": None, b"5 5": None,
    b"1" * 16: None, b"5\n": None, b"5;\x00": None, b"5;\n": None, "\u0665".encode(): None,
}  # fmt: skip


@pytest.mark.parametrize(("line", "size"), CHUNKS.items())
def test_chunk_line(line: bytes, size: int | None) -> None:
    """RFC 9112 section 7.1: hexadecimal digits, and extensions that are ignored."""
    if size is None:
        with pytest.raises(TransportError):
            parse_chunk_size(line)
    else:
        assert parse_chunk_size(line) == size


def _fed(*pieces: bytes, largest: int = 10) -> ResponseParser:
    parser = ResponseParser("GET", largest)
    assert [parser.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return parser


def test_sizes_at_their_bounds() -> None:
    """A body, a head and a chunk's line of the largest size are accepted, and nothing larger."""
    head = b"HTTP/1.1 200 X\r\n"
    assert _fed(head + b"Content-Length: 10\r\n\r\n", b"0123456789").response.body == b"0123456789"
    with pytest.raises(TooLarge, match="larger than 10 bytes"):
        ResponseParser("GET", 10).feed(head + b"Content-Length: 11\r\n\r\n")
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    assert _fed(chunked + b"4\r\n0123\r\n6\r\n456789\r\n0\r\n\r\n").response.body == b"0123456789"
    with pytest.raises(TooLarge, match="larger than 10 bytes"):
        ResponseParser("GET", 10).feed(chunked + b"4\r\n0123\r\n7\r\n")
    for start, size in ((head + b"X: ", MAX_HEAD), (chunked, MAX_CHUNK_LINE)):
        for spare, is_good in ((0, True), (1, False)):
            parser = ResponseParser("GET", 10)
            begun = b"5;" if start is chunked else start
            if start is chunked:
                parser.feed(start)
            line = begun + b"y" * (size - len(begun) + spare)
            if is_good:
                assert not parser.feed(line)
            else:
                with pytest.raises(TransportError, match=f"more than {size} bytes"):
                    parser.feed(line)


def test_a_response_without_a_body_is_complete_with_its_head() -> None:
    """Also if a body must be empty; interim responses, up to 199, come before it, and what follows is no part of it."""
    head = b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n"
    for data in (head, b"HTTP/1.1 100 X\r\n\r\nHTTP/1.1 199 X\r\n\r\n" + head):
        parser = _fed(data, largest=0)
        assert (parser.response.status, parser.response.body, parser.keeps_open) == (200, b"", True)
        parser = _fed(data + b"abc", largest=0)
        assert (parser.response.body, parser.keeps_open) == (b"", False)


def test_trailers_are_not_part_of_the_body_and_have_a_bound() -> None:
    """They end with an empty line, and are discarded."""
    chunked = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
    parser = _fed(chunked + b"2\r\nab\r\n0\r\nA: 1\r\n", b"B: 2\r\n\r\n")
    assert (parser.response.body, parser.keeps_open) == (b"ab", True)
    assert list(parser.response.headers) == ["transfer-encoding"]
    with pytest.raises(TransportError):
        ResponseParser("GET", 10).feed(chunked + b"0\r\n" + b"x" * (MAX_HEAD + 1))


def test_a_response_has_begun_with_its_first_byte() -> None:
    """This decides whether a connection was dropped while idle, or the response is cut off."""
    parser = ResponseParser("GET", 10)
    assert not parser.has_begun
    assert not parser.feed(b"H")
    assert parser.has_begun
