"""The node's keys: Ed25519 for its packages, EC P-384 for its SuperNode, x25519 for the onion.

The first two are made here; the third comes with the invitation and is one volunteer's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation import durable, settings
from federation.adapter.signing import SigningKey, pseudonym
from federation.errors import ConfigError
from federation.language import _
from federation.tor.keys import client_line, key_of

SIGNING_FILE = "node_signing.key"
SUPERNODE_FILE = "supernode.key"


@dataclass(frozen=True)
class NodeKeys:
    """Both keys of a node.

    Attributes:
        signing: signs packages and enrolment.
        supernode_private: OpenSSH file for `flower-supernode --auth-supernode-private-key`.
        supernode_public: one line as `flwr supernode register` reads it; without a comment,
            which would name the user and the machine.
    """

    signing: SigningKey
    supernode_private: Path
    supernode_public: str

    @property
    def node(self) -> str:
        """The node's pseudonym, 16 hex digits."""
        return pseudonym(self.signing.public_hex)


def load_or_create(folder: Path) -> NodeKeys:
    """Read the keys in `folder`; make those that are missing, mode 0600.

    Raises:
        ConfigError: a key file holds no such key.
        PermissionsError: other users can read a key file.
    """
    with durable.locked(folder / "keys.lock"):
        signing = _signing_key(folder / SIGNING_FILE)
        private = folder / SUPERNODE_FILE
        public = _supernode_public(private)
    return NodeKeys(signing, private, public)


def keep_onion_key(path: Path, host: str, private: str) -> None:
    """Keep the key to an onion service, in the form in which any tor takes it.

    Args:
        path: the file, made 0600.
        host: "<56>.onion".
        private: base32, from the invitation.
    """
    durable.write_text(path, client_line(host, private) + "\n")


def onion_key(path: Path) -> str:
    """Read the private key that `keep_onion_key` kept, base32; "" if there is none.

    Raises:
        ConfigError: the file holds no such key.
        PermissionsError: other users can read it.
    """
    if not path.exists():
        return ""
    settings.require_private(path)
    try:
        return key_of(path.read_text(encoding="ascii").strip().rpartition(":")[2]).private
    except ValueError:  # the chained error might quote the key
        raise ConfigError(
            _("{path} holds no key to an onion service.").format(path=path),
            hint=_("Ask the operator for a new invitation, or put the file back from a copy."),
        ) from None


def _signing_key(path: Path) -> SigningKey:
    if not path.exists():
        SigningKey.generate().save(path)
    return SigningKey.load(path)


def _supernode_public(path: Path) -> str:
    if not path.exists():
        # flwr reads the key with load_ssh_private_key: the OpenSSH form, not PKCS#8
        data = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        durable.write_bytes(path, data)
    settings.require_private(path)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise ConfigError(f"{path} holds no readable OpenSSH private key") from err
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{path} holds a private key, but not an EC P-384 one")
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode("ascii")
    )
