"""The command line of serve: the laptop server, and key sets. An error is one line on stderr and exit status 1."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from serve.datasets import Served, parse_served
from serve.tokens.jwks import BadKeySet, KeySet, parse_keys
from serve.tokens.key_cache import Unreadable
from serve.tokens.key_sources import open_source
from server.ports import parse_port

ROOT = Path(__file__).resolve().parents[2]
KEYS = Path(".larder/keys")


def read_served() -> dict[str, Served]:
    """Read who can read which dataset from datasets/, in another process: serve imports nothing of enrich.

    Raises:
        ValueError: a file in datasets/ defines no dataset.
    """
    command = [sys.executable, "-m", "enrich.datasets"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return parse_served(done.stdout)


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Run a command; return the exit status: 0, or 1 after an error or a refused key."""
    is_keys = arguments[:1] == ["keys"]
    options = _build_keys_parser().parse_args(arguments[1:]) if is_keys else _build_parser().parse_args(arguments)
    try:
        status: int = options.run(options, env)
    except (ValueError, OSError, Unreadable, BadKeySet) as error:
        print(f"larder {'keys' if is_keys else 'serve'}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return status


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./larder serve",
        description="Serve the read API on this machine, with its documentation at /docs. Without LARDER_TABLE and "
        "LARDER_ISSUERS it uses the stack that runs on this machine (`./larder up` or `./larder demo`).",
        epilog="`./larder keys --help`: signing keys, and tokens for development",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=parse_port, default=8080, help="default: %(default)s; 0: any free port")
    parser.set_defaults(run=_serve)
    return parser


def _build_keys_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./larder keys", description="List, check and create signing keys; sign tokens for development."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    for name, run, text in (
        ("list", _list, "show the keys at a location"),
        ("check", _check, "show them, and exit with status 1 if a key is refused"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "location",
            nargs="?",
            default=f"file:{KEYS}/jwks.json",
            help="file:, s3://, ssm: or https: (default: %(default)s)",
        )
        action.set_defaults(run=run)
    create = actions.add_parser("create", help="create a key pair: KID.pem, and the public half in jwks.json")
    create.add_argument("kid", help="name of the new key")
    create.add_argument("--algorithm", default="ES256", choices=["RS256", "PS256", "ES256", "ES384", "EdDSA"])
    create.add_argument("--folder", type=Path, default=KEYS, help="default: %(default)s")
    create.set_defaults(run=_create)
    token = actions.add_parser("token", help="sign a token, for development only")
    token.add_argument("kid", help="name of the key that signs, as given to `create`")
    token.add_argument("--folder", type=Path, default=KEYS, help="default: %(default)s")
    token.add_argument("--issuer", default="https://issuer.example.com/", help="default: %(default)s")
    token.add_argument("--audience", default="larder", help="default: %(default)s")
    token.add_argument("--scope", help="default: the scopes of all datasets")
    token.add_argument("--lifetime", type=int, default=3600, help="seconds (default: %(default)s)")
    token.add_argument("--claim", action="append", default=[], metavar="NAME=VALUE", help="e.g. carrier=B6")
    token.set_defaults(run=_token)
    return parser


def _serve(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    from serve.handler import build_dependencies, build_handler

    if not (env.get("LARDER_TABLE") or env.get("LARDER_ISSUERS")):
        from infra.local.running import read_variables

        env = {**env, **read_variables()}
        print(f"larder serve: using the stack on this machine, at {env['AWS_ENDPOINT_URL']}", file=sys.stderr)  # noqa: T201
    handler = build_handler(build_dependencies(env, read_served()))
    from serve.dev.server import open_server

    server = open_server(handler, options.host, options.port)
    base = f"http://{options.host}:{server.port}"
    print(f"larder serve: the API is at {base}/v1, its documentation at {base}/docs; stop with Ctrl-C", file=sys.stderr)  # noqa: T201
    try:
        server.run()
    except KeyboardInterrupt:
        server.close()
    return 0


def _read(location: str, env: Mapping[str, str]) -> KeySet:
    return parse_keys(open_source(location, env)())


def _list(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    found = _read(options.location, env)
    for key in found.keys.values():
        size = f" {key.public_key.key_size} bits" if isinstance(key.public_key, RSAPublicKey) else ""
        print(f"{key.kid}\t{key.algorithm}{size}")  # noqa: T201
    for refused in found.refused:
        print(f"{refused.kid}\trefused: {refused.reason}")  # noqa: T201
    for unused in found.unused:
        print(f"{unused.kid}\tnot used: {unused.reason}")  # noqa: T201
    return 0


def _check(options: argparse.Namespace, env: Mapping[str, str]) -> int:
    _list(options, env)
    return 1 if _read(options.location, env).refused else 0


def _create(options: argparse.Namespace, _env: Mapping[str, str]) -> int:
    from serve.dev.key_files import create_key

    private_path = create_key(options.folder, options.kid, options.algorithm)
    print(f"{private_path} (private: keep it here), {private_path.parent / 'jwks.json'} (public)")  # noqa: T201
    return 0


def _token(options: argparse.Namespace, _env: Mapping[str, str]) -> int:
    from serve.dev.key_files import build_claims, sign_token

    extra: dict[str, Any] = {}
    for pair in options.claim:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--claim takes NAME=VALUE, not {pair!r}")
        extra[name] = json.loads(value) if value[:1] in ("[", "{") else value
    scope = options.scope
    if scope is None:
        scope = " ".join(dataset.scope for dataset in read_served().values() if dataset.scope)
    claims = build_claims(options.issuer, options.audience, scope, extra, time.time(), options.lifetime)
    print(sign_token(options.folder / f"{options.kid}.pem", claims))  # noqa: T201
    return 0
