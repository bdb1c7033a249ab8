"""A backup holds what a server cannot get back by itself, for the operator's eyes alone."""

from __future__ import annotations

import io
import json
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation.adapter.signing import SigningKey
from federation.errors import ConfigError, UsageError
from server.backup import back_up, restore
from server.config import ServerHome, load_config
from server.gate import add_documents
from server.intake import Intake
from server.invitations import invite
from server.nodes import Nodes
from server.onion_clients import OnionClients
from server.registry import Registry
from server.starting import require_ready
from tests.server_home import make_home

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    made = make_home(tmp_path / "server", onion=True, gateway_port=4433)
    invite(made, load_config(made), "ana", life=timedelta(days=1))
    Intake(made.intake_db).record_merged("a" * 64, node="1" * 16, version=1)
    (tmp_path / "gate.jsonl").write_text('{"text": "a document that is held out"}\n')
    add_documents(tmp_path / "gate.jsonl", made.gate)
    for private in ("logs/gateway.log", "spool/x", "models/m/weights"):
        path = made.root / private
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not in a backup")
    return made


@pytest.fixture
def file(home: ServerHome, tmp_path: Path) -> Path:
    target = tmp_path / "safe" / "server.tar"
    assert back_up(home, target, now=NOW) == target.stat().st_size
    return target


def test_a_restored_server_is_the_same_server(home: ServerHome, file: Path, tmp_path: Path) -> None:
    copy = ServerHome(tmp_path / "copy")
    restore(copy, file)
    config = load_config(copy)
    assert config == load_config(home)
    hosts = [[s.host for s in OnionClients(h.onion, 300).shards()] for h in (home, copy)]
    assert hosts[0] == hosts[1]
    assert OnionClients(copy.onion, 300).holder("ana") is not None
    OnionClients(copy.onion, 300).require_closed()
    assert Nodes(copy.nodes_db).all() == Nodes(home.nodes_db).all()
    assert Intake(copy.intake_db).settled("a" * 64)
    key = SigningKey.load(copy.signing_key).public_hex
    assert key == SigningKey.load(home.signing_key).public_hex
    assert Registry(copy.registry, None, key).package(0)
    assert list(copy.gate.iterdir())
    assert require_ready(copy) == config


def test_everything_in_and_around_a_backup_is_private(
    home: ServerHome, file: Path, tmp_path: Path
) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["server.tar"]
    before = os.umask(0)
    try:
        restore(ServerHome(tmp_path / "copy"), file)
    finally:
        os.umask(before)
    for path in (tmp_path / "copy").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert not [path for path in home.root.iterdir() if path.name.startswith(".backup")]


def test_neither_logs_nor_models_nor_unmerged_updates_are_in_it(file: Path) -> None:
    with tarfile.open(file) as archive:
        names = archive.getnames()
        note = archive.extractfile("backup.json")
        assert note is not None
        with note:
            assert json.load(note)["made_at"] == "2026-01-02T00:00:00+00:00"
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "backup.json",
        "server_config.json",
        *("keys", "tls", "onion", "registry", "gate"),
        *("nodes.sqlite", "intake.sqlite"),
    }
    assert all(name.startswith("onion/hs0/") for name in names if name.startswith("onion"))


def test_a_database_is_copied_as_it_stands_while_others_write(
    home: ServerHome, tmp_path: Path
) -> None:
    Nodes(home.nodes_db).invite("ben", token_sha256="b" * 64, expires_at=4e9)
    back_up(home, tmp_path / "later.tar", now=NOW)
    restore(ServerHome(tmp_path / "copy"), tmp_path / "later.tar")
    assert [node.name for node in Nodes(tmp_path / "copy" / "nodes.sqlite").all()] == ["ana", "ben"]


def test_nothing_is_overwritten(home: ServerHome, file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        back_up(home, file, now=NOW)
    with pytest.raises(UsageError, match="is not empty"):
        restore(home, file)
    with pytest.raises(UsageError, match="no file"):
        restore(ServerHome(tmp_path / "copy"), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    restore(ServerHome(tmp_path / "empty"), file)


@pytest.mark.parametrize("length", [0, 100, 1024, 20_000])
def test_a_cut_backup_leaves_nothing(file: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ConfigError):
        restore(ServerHome(tmp_path / "new" / "copy"), cut)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.security
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside", tarfile.REGTYPE),
        ("/tmp/outside", tarfile.REGTYPE),  # noqa: S108 - a hostile name
        ("keys/../../outside", tarfile.REGTYPE),
        ("keys/link", tarfile.SYMTYPE),
        ("keys/fifo", tarfile.FIFOTYPE),
    ],
)
def test_h01_a_hostile_member_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    hostile = tmp_path / "hostile.tar"
    with tarfile.open(hostile, "w") as archive:
        note = tarfile.TarInfo("backup.json")
        note.size = 13
        archive.addfile(note, io.BytesIO(b'{"format": 1}'))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/hostname"
        archive.addfile(member, io.BytesIO())
    with pytest.raises(ConfigError, match="does not hold"):
        restore(ServerHome(tmp_path / "deep" / "copy"), hostile)
    assert list(tmp_path.rglob("outside")) == []
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    newer = tmp_path / "newer.tar"
    with tarfile.open(newer, "w") as archive:
        note = tarfile.TarInfo("backup.json")
        note.size = 13
        archive.addfile(note, io.BytesIO(b'{"format": 2}'))
    with pytest.raises(ConfigError, match="newer version"):
        restore(ServerHome(tmp_path / "copy"), newer)
