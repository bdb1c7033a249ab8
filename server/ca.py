"""The private certificate authority and the server's TLS certificate.

    tls/ca.key   tls/ca.crt            EC P-256, 10 years; ca.crt travels in every invitation
    tls/server.key   tls/server.crt    EC P-256, one year, renewed before it ends

Nodes trust this authority and nothing else, so the server's certificate may be renewed, and given
more names, without a new invitation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from federation import durable, settings
from federation.errors import ConfigError

CA_DAYS = 3650
SERVER_DAYS = 365
RENEW_DAYS = 30
LOCAL_NAMES = ("127.0.0.1", "localhost")
# Clocks of nodes may run a little behind the server's.
_BACKDATED = timedelta(hours=1)


@dataclass(frozen=True)
class TlsFiles:
    """Paths of the four files below `folder`."""

    folder: Path

    @property
    def ca_certificate(self) -> Path:
        """What nodes trust."""
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Signs certificates; private."""
        return self.folder / "ca.key"

    @property
    def certificate(self) -> Path:
        """What the gateway and the SuperLink show."""
        return self.folder / "server.crt"

    @property
    def key(self) -> Path:
        """Key of that certificate; private."""
        return self.folder / "server.key"

    def require(self) -> None:
        """Check that all four files are there and the keys private.

        Raises:
            ConfigError: one is missing.
            PermissionsError: a key is open to other users.
        """
        for path in (self.ca_certificate, self.ca_key, self.certificate, self.key):
            if not path.is_file():
                raise ConfigError(f"{path} is missing", hint="Run: flower-server init")
        settings.require_private(self.ca_key)
        settings.require_private(self.key)


def create(folder: Path, *, name: str, addresses: Sequence[str], now: datetime) -> TlsFiles:
    """Make the authority and the first server certificate; existing files are kept.

    Args:
        folder: made private if missing.
        name: the federation's name, shown in the authority's.
        addresses: host names and IP addresses beside the local ones.
        now: current time with zone.
    """
    files = TlsFiles(durable.make_folder(folder))
    if not (files.ca_key.exists() and files.ca_certificate.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _authority(name, key, now)
        _save_key(files.ca_key, key)
        durable.write_bytes(files.ca_certificate, _pem(certificate))
    renew(files, addresses=addresses, now=now)
    return files


def renew(files: TlsFiles, *, addresses: Sequence[str], now: datetime) -> bool:
    """Issue the server's certificate again if it is missing, ends soon or lacks a name.

    Returns:
        Whether a new one was written.

    Raises:
        ConfigError: the authority's files cannot be read.
    """
    names = list(dict.fromkeys([*LOCAL_NAMES, *addresses]))
    if _still_good(files, names, now):
        return False
    authority, authority_key = _load_authority(files)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _leaf(names, key.public_key(), authority, authority_key, now)
    _save_key(files.key, key)
    durable.write_bytes(files.certificate, _pem(certificate))
    return True


def _authority(name: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} authority"[:64])])
    return (
        _builder(subject, subject, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _leaf(
    names: Sequence[str],
    key: ec.EllipticCurvePublicKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    issuer = authority_key.public_key()
    return (
        _builder(subject, authority.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(n) for n in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - _BACKDATED)
        .not_valid_after(now.astimezone(UTC) + timedelta(days=days))
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _still_good(files: TlsFiles, names: Sequence[str], now: datetime) -> bool:
    if not (files.certificate.exists() and files.key.exists()):
        return False
    certificate = _read(files.certificate)
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ends = certificate.not_valid_after_utc - timedelta(days=RENEW_DAYS)
    return now < ends and all(_name(name) in list(held) for name in names)


def _load_authority(files: TlsFiles) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not files.ca_key.exists():
        raise ConfigError(f"{files.ca_key} is missing", hint="Restore it from a backup.")
    settings.require_private(files.ca_key)
    try:
        key = serialization.load_pem_private_key(files.ca_key.read_bytes(), password=None)
    except (ValueError, TypeError) as err:
        raise ConfigError(f"{files.ca_key} holds no readable private key") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{files.ca_key} holds another kind of key")
    return _read(files.ca_certificate), key


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as err:
        raise ConfigError(f"{path} is not a readable certificate") from err


def _save_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    durable.write_bytes(path, data)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
