"""Keys from files and from an issuer's own server; and the commands that list, check and create them."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from serve.dev.commands import main
from serve.tokens.jwks import parse_keys
from serve.tokens.jwt import verify
from serve.tokens.key_cache import Unreadable
from serve.tokens.key_sources import check_location, open_source
from tests.unit.serve.kit import POLICY, SERVED, jwks, private_key, public_jwk


def _read(location: str) -> set[str]:
    return set(parse_keys(open_source(location, {})()).keys)


def _pem(algorithm: str) -> bytes:
    data: bytes = private_key(algorithm).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data


def test_keys_are_read_from_files(tmp_path: Path) -> None:
    """One JWKS, one PEM, or all `*.pem` and `*.json` of a folder."""
    (tmp_path / "jwks.json").write_text(jwks(public_jwk("RS256")))
    (tmp_path / "kid-1.pem").write_bytes(_pem("ES256"))
    (tmp_path / "README.txt").write_text("not a key")
    assert _read(f"file:{tmp_path}/jwks.json") == {"RS256-0"}
    assert _read(f"file:{tmp_path}/kid-1.pem") == {"kid-1"}
    assert _read(f"file://{tmp_path}/kid-1.pem") == {"kid-1"}
    assert _read(f"file:{tmp_path}/") == _read(f"file:{tmp_path}") == {"RS256-0", "kid-1"}
    (tmp_path / "empty").mkdir()
    for missing in ("none", "none/", "empty", "empty/"):
        with pytest.raises(Unreadable):
            _read(f"file:{tmp_path}/{missing}")


@pytest.mark.parametrize(
    "location", ["", "jwks.json", "/etc/keys", "http://issuer.example.com/jwks.json", "https:///x", "s3://bucket", "s3:///k",
                 "ssm:name", "ssm://host", "file:", "file://host/path", "ftp://x/y", "env:KEYS", "https://user:secret@issuer.example.com/jwks.json"],
)  # fmt: skip
def test_other_locations_are_refused(location: str) -> None:
    """In particular keys over plain http, which anybody on the network path could exchange."""
    with pytest.raises(ValueError, match="the location of keys must be") as caught:
        open_source(location, {})
    assert "secret" not in str(caught.value)


CHECKED = {
    **dict.fromkeys(["file:keys/jwks.json", "s3://bucket/keys/", "ssm:/larder/keys"], ""),
    **dict.fromkeys(["https://issuer.example.com/keys?v=1", "https://issuer.example.com:8443"], ""),
    **dict.fromkeys(["s3://bucket/keys/?a", "ssm:/larder/keys#a", "file:/keys?a"], " must have no ? and no #, not "),
    **dict.fromkeys(
        [f"https://issuer.example.com/{odd}" for odd in ("keys#a", "a b", "\u00e4", "a\x7f")],
        " must be printable ASCII without blanks and #, not ",
    ),
    "https://issuer.example.com:99999/keys": " 'https://issuer.example.com:99999/keys' has no valid host and port: ",
    "http://issuer.example.com/keys": " must be file:, s3://bucket/, ssm:/ or https://, not ",
}


@pytest.mark.parametrize("location", CHECKED)
def test_a_location_is_checked_before_a_deploy(location: str) -> None:
    """What no request could be sent to is refused, with the place; nothing is read."""
    if not CHECKED[location]:
        check_location(location)
        return
    with pytest.raises(ValueError, match=f"^the location of keys{re.escape(CHECKED[location])}"):
        check_location(location)


ACCEPT = "application/jwk-set+json, application/json"


class _Issuer(BaseHTTPRequestHandler):
    document = jwks(public_jwk("ES256")).encode()

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/jwks.json")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"x" * 2_000_000 if self.path == "/huge" else self.document
        found = self.path in ("/", "/?v=1", "/jwks.json", "/huge", "/tenant/keys?v=1", "/part")
        is_plain = self.headers["accept-encoding"] == "identity" and self.headers["accept"] == ACCEPT
        status = 206 if self.path == "/part" else 200
        self.send_response(status if found and is_plain and self.headers["user-agent"] == "larder" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the library
        pass


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An issuer's server with TLS, whose certificate this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )  # fmt: skip
    chain = tmp_path / "server.pem"
    trust = tmp_path / "trust.pem"
    trust.write_bytes(certificate.public_bytes(Encoding.PEM))
    chain.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + trust.read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Issuer)
    server.block_on_close = False
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_CA_BUNDLE", str(trust))
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_keys_are_read_from_an_issuer(issuer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over verified TLS; no redirect is followed, no endless document is read, no error page is accepted."""
    assert _read(f"{issuer}/jwks.json") == {"ES256-0"}
    assert _read(f"{issuer}/tenant/keys?v=1") == {"ES256-0"}
    assert _read(issuer) == _read(f"{issuer}?v=1") == {"ES256-0"}
    for path in ("/moved", "/huge", "/none"):
        with pytest.raises(Unreadable):
            _read(issuer + path)
    with pytest.raises(Unreadable, match=r"/part: status 206$"):
        _read(f"{issuer}/part")
    monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(Unreadable):
        _read(f"{issuer}/jwks.json")


def test_a_token_of_the_command_line_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Create keys, list and check them, sign a token with each: the verifier accepts it."""
    folder = str(tmp_path / "keys")
    for algorithm in ("RS256", "PS256", "ES256", "ES384", "EdDSA"):
        assert main(["keys", "create", f"k-{algorithm}", "--algorithm", algorithm, "--folder", folder], {}) == 0
    assert (tmp_path / "keys" / "k-ES256.pem").stat().st_mode & 0o777 == 0o600
    capsys.readouterr()
    assert main(["keys", "check", f"file:{folder}/jwks.json"], {}) == 0
    assert "k-RS256\tRS256 2048 bits" in capsys.readouterr().out
    keys = parse_keys(open_source(f"file:{folder}/jwks.json", {})()).keys
    for algorithm in ("RS256", "PS256", "ES256", "ES384", "EdDSA"):
        command = [
            "keys",
            "token",
            f"k-{algorithm}",
            "--folder",
            folder,
            "--claim",
            "carrier=B6",
            "--claim",
            'groups=["a"]',
        ]
        assert main(command, {}) == 0
        found = verify(capsys.readouterr().out.strip(), keys, POLICY._replace(require_at_jwt=True), time.time())
        assert (found["carrier"], found["groups"]) == ("B6", ["a"])
        assert found["scope"] == " ".join(dataset.scope for dataset in SERVED.values() if dataset.scope)


def test_mistakes_on_the_command_line_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr and status 1: an existing name, a name that can't be a file's, a missing key, a bad claim."""
    folder = str(tmp_path)
    assert main(["keys", "create", "one", "--folder", folder], {}) == 0
    for command in (
        ["keys", "create", "one", "--folder", folder],
        ["keys", "create", "../one", "--folder", folder],
        ["keys", "token", "none", "--folder", folder],
        ["keys", "token", "one", "--folder", folder, "--claim", "carrier"],
        ["keys", "list", f"file:{folder}/none.json"],
        ["keys", "list", "http://issuer.example.com/"],
        ["--port", "0"],
    ):
        capsys.readouterr()
        assert main(command, {}) == 1, command
        said = capsys.readouterr().err
        assert said.startswith("larder serve: " if command[0] == "--port" else "larder keys: ")
        assert said.count("\n") == 1


def test_check_fails_on_a_refused_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`list` shows it and continues, `check` fails."""
    path = tmp_path / "jwks.json"
    path.write_text(jwks(public_jwk("ES256"), public_jwk("RS256", kid="enc", use="enc")))
    assert main(["keys", "check", f"file:{path}"], {}) == 0
    assert "enc\tnot used: use is not sig" in capsys.readouterr().out
    path.write_text(jwks(public_jwk("ES256"), public_jwk("RS256", kid="odd", key_ops=[])))
    assert main(["keys", "list", f"file:{path}"], {}) == 0
    assert "odd\trefused: key_ops has no verify" in capsys.readouterr().out
    assert main(["keys", "check", f"file:{path}"], {}) == 1
