"""A pinned object is read in ranges from the laptop's S3, which sends the whole object if a version is named."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import boto3
import pytest

from enrich.errors import Stopped
from enrich.read.s3_object import Part, PartFile
from tests.loopback import Loopback, Peer


@pytest.mark.parametrize("versioned", [False, True])
def test_ranges_of_a_pinned_object_are_its_bytes(aws: Any, versioned: bool) -> None:
    """Whether pinned by version or by ETag, and wherever reading begins, the bytes are those of the object."""
    content, bucket = os.urandom(50_000), aws.bucket(versioned=versioned)
    answer = aws.client("s3").put_object(Bucket=bucket, Key="scored=1/part", Body=content)
    part = Part(bucket, "scored=1/part", answer.get("VersionId"), answer["ETag"], len(content))
    file = PartFile(aws.client("s3"), part, read_ahead=7_000)
    file.seek(-8, os.SEEK_END)
    assert file.read(8) == content[-8:]
    file.seek(20_001)
    assert file.read(100) == content[20_001:20_101]
    file.seek(0)
    assert file.readall() == content


CONTENT = os.urandom(300_000)  # more than a socket buffers


@contextmanager
def breaking_off(
    answers: list[int], said: int | None = None, *, reset: bool = False
) -> Iterator[tuple[Any, list[bytes]]]:
    """Serve an object on a port of this machine; each response breaks off after so many bytes of its body.

    Args:
        answers: bytes that are sent of each body, the last for all that follow.
        said: the length that answers state; None for that of the whole.
        reset: the connection is reset where the body breaks off, and not closed.

    Yields:
        A client of S3, and the requests that came.
    """
    requests: list[bytes] = []

    def serve(peer: Peer) -> None:
        requests.append(peer.socket.recv(65536))
        count = answers[min(len(requests), len(answers)) - 1]
        length = said or len(CONTENT)
        head = f"HTTP/1.1 206 OK\r\nContent-Length: {length}\r\n"
        head += f"Content-Range: bytes 0-{length - 1}/{length}\r\nConnection: close\r\n\r\n"
        peer.socket.sendall(head.encode() + CONTENT[:count])
        if reset and count < len(CONTENT):
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with closing(Loopback(serve)) as server:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{server.address[1]}",
            region_name="eu-central-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        yield client, requests


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_that_breaks_off_is_asked_for_again(reset: bool) -> None:
    """The client retries requests, but not bodies: the result is complete, without repeated bytes."""
    part = Part("bucket", "part", None, '"etag"', len(CONTENT))
    with breaking_off([100_000, 0, len(CONTENT)], reset=reset) as (client, requests):
        assert PartFile(client, part).readall() == CONTENT
    assert len(requests) == 3
    assert all(b'if-match: "etag"' in request.lower() for request in requests)  # as it was pinned


@pytest.mark.parametrize("reset", [False, True])
def test_a_body_that_always_breaks_off_stops_the_run(reset: bool) -> None:
    """After four responses the error is raised, and the run continues with the next message."""
    part = Part("bucket", "part", None, '"etag"', len(CONTENT))
    with breaking_off([100_000], reset=reset) as (client, requests), pytest.raises(Stopped, match="s3://bucket/part"):
        PartFile(client, part).readall()
    assert len(requests) == 4


def test_an_answer_of_fewer_bytes_stops_the_run() -> None:
    """A response with fewer bytes than requested is an error, even if its headers declare them."""
    part = Part("bucket", "part", None, '"etag"', len(CONTENT))
    with (
        breaking_off([1000], said=1000) as (client, requests),
        pytest.raises(Stopped, match="fewer bytes than requested"),
    ):
        PartFile(client, part).readall()
    assert len(requests) == 4
