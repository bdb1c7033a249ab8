"""The node's keys: private files, stable, and in the forms that Flower reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.keys import load_or_create
from federation.adapter.signing import pseudonym
from federation.errors import ConfigError, PermissionsError


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "keys")
    second = load_or_create(tmp_path / "keys")

    assert first.signing.public_hex == second.signing.public_hex
    assert first.supernode_public == second.supernode_public
    assert first.node == pseudonym(first.signing.public_hex)
    for name in ("node_signing.key", "supernode.key"):
        assert (tmp_path / "keys" / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700


def test_supernode_key_is_what_flower_supernode_loads(tmp_path: Path) -> None:
    keys = load_or_create(tmp_path)

    private = serialization.load_ssh_private_key(keys.supernode_private.read_bytes(), password=None)

    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    public = serialization.load_ssh_public_key(keys.supernode_public.encode())
    assert public == private.public_key()
    assert len(keys.supernode_public.split(" ")) == 2  # no comment, which would name the machine


def test_flower_registers_the_public_key(tmp_path: Path) -> None:
    register = pytest.importorskip("flwr.cli.supernode.register")
    keys = load_or_create(tmp_path)
    path = tmp_path / "supernode.pub"
    path.write_text(keys.supernode_public)

    assert register.try_load_public_key(path).startswith(b"-----BEGIN PUBLIC KEY-----")


@pytest.mark.security
def test_h30_a_key_open_to_others_is_refused(tmp_path: Path) -> None:
    for name in ("node_signing.key", "supernode.key"):
        folder = tmp_path / name
        load_or_create(folder)
        (folder / name).chmod(0o640)
        with pytest.raises(PermissionsError, match=name):
            load_or_create(folder)


def test_a_file_that_is_no_such_key_is_refused(tmp_path: Path) -> None:
    keys = load_or_create(tmp_path)
    keys.supernode_private.write_bytes((tmp_path / "node_signing.key").read_bytes())

    with pytest.raises(ConfigError, match="supernode"):
        load_or_create(tmp_path)
