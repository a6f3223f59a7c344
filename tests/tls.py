"""A server that speaks TLS, with a certificate that was made for the test."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key; the test is skipped where nothing can make them."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl command to make a certificate with")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=worker", "-addext", "subjectAltName=IP:127.0.0.1", "-out", made, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """What a server with this certificate and key speaks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context
