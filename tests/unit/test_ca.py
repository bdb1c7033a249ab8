"""The private authority: what it signs is trusted, nothing else is, and keys stay private."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from federation.errors import ConfigError, PermissionsError
from server import ca

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def shake_hands(server: ca.TlsFiles, trusted: Path, name: str) -> str:
    """TLS version agreed between a server with `server`'s files and a client trusting `trusted`."""
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(server.certificate, server.key)
    outside = ssl.create_default_context(cafile=str(trusted))
    left, right = socket.socketpair()

    def serve() -> None:
        try:
            with inside.wrap_socket(left, server_side=True) as wrapped:
                wrapped.recv(1)
        except (ssl.SSLError, OSError):
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with outside.wrap_socket(right, server_hostname=name) as wrapped:
            return str(wrapped.version())
    finally:
        right.close()
        thread.join(10)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "node.example", "10.1.2.3"])
def test_every_named_address_is_trusted(tmp_path: Path, name: str) -> None:
    files = ca.create(
        tmp_path / "tls", name="test", addresses=("node.example", "10.1.2.3"), now=_today()
    )
    assert shake_hands(files, files.ca_certificate, name) == "TLSv1.3"


def test_a_name_that_is_not_in_the_certificate_is_refused(tmp_path: Path) -> None:
    files = ca.create(tmp_path / "tls", name="test", addresses=(), now=_today())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, files.ca_certificate, "other.example")


def test_another_authority_of_the_same_name_is_refused(tmp_path: Path) -> None:
    ours = ca.create(tmp_path / "a", name="test", addresses=(), now=_today())
    theirs = ca.create(tmp_path / "b", name="test", addresses=(), now=_today())
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(theirs, ours.ca_certificate, "127.0.0.1")


def test_keys_are_private_and_the_authority_lives_ten_years(tmp_path: Path) -> None:
    files = ca.create(tmp_path / "tls", name="test", addresses=(), now=NOW)
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (files.ca_key, files.key)} == {0o600}
    authority = x509.load_pem_x509_certificate(files.ca_certificate.read_bytes())
    assert authority.not_valid_after_utc == NOW + timedelta(days=3650)


def test_creating_again_keeps_everything(tmp_path: Path) -> None:
    files = ca.create(tmp_path / "tls", name="test", addresses=(), now=NOW)
    before = {path.name: path.read_bytes() for path in files.folder.iterdir()}
    ca.create(tmp_path / "tls", name="test", addresses=(), now=NOW)
    assert {path.name: path.read_bytes() for path in files.folder.iterdir()} == before


@pytest.mark.parametrize(
    ("days", "addresses", "renewed"),
    [(0, (), False), (300, (), False), (340, (), True), (400, (), True), (0, ("x.example",), True)],
)
def test_the_server_certificate_is_renewed_in_time_by_the_same_authority(
    tmp_path: Path, days: int, addresses: tuple[str, ...], renewed: bool
) -> None:
    files = ca.create(tmp_path / "tls", name="test", addresses=(), now=NOW)
    authority = files.ca_certificate.read_bytes()
    later = NOW + timedelta(days=days)
    assert ca.renew(files, addresses=addresses, now=later) is renewed
    assert ca.renew(files, addresses=addresses, now=later) is False
    assert files.ca_certificate.read_bytes() == authority


def test_a_key_open_to_others_stops_the_start(tmp_path: Path) -> None:
    files = ca.create(tmp_path / "tls", name="test", addresses=(), now=NOW)
    files.require()
    files.key.chmod(0o644)
    with pytest.raises(PermissionsError, match=r"server\.key"):
        files.require()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = ca.create(tmp_path / "tls", name="test", addresses=(), now=NOW)
    files.certificate.unlink()
    with pytest.raises(ConfigError, match=r"server\.crt is missing"):
        files.require()


def _today() -> datetime:
    return datetime.now(UTC)
