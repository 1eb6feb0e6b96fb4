"""Self-signed certificates for servers of tests and benchmarks that use TLS."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def build_certificate(names: Sequence[str], *, age: datetime.timedelta = datetime.timedelta()) -> tuple[bytes, bytes]:
    """Build a self-signed certificate and its private key, both as PEM.

    Args:
        names: the hosts or IP addresses that it is for.
        age: it is valid for a day, the middle of which was that long ago.
    """
    private_key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    begins = datetime.datetime.now(datetime.UTC) - age - DAY / 2
    serial = x509.random_serial_number()
    hosts = [x509.IPAddress(ipaddress.ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
    certificate = (
        x509.CertificateBuilder(subject, subject, private_key.public_key(), serial, begins, begins + DAY)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private_key, hashes.SHA256())
    )
    rendered = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), rendered


def write_certificate(folder: Path, names: Sequence[str]) -> None:
    """Write `certificate.pem` and `key.pem` for some hosts."""
    certificate, private_key = build_certificate(names)
    (folder / "certificate.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(private_key)
