"""The operator's command line: one line for a mistake, JSON for a machine, nothing heavy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from federation.adapter.manifest import InputRecord
from federation.adapter.signing import SigningKey
from federation.invitation import decode
from server.cli import main
from server.config import ServerHome
from server.intake import Intake
from server.registry import Registry
from tests.adapter_samples import random_arrays
from tests.server_home import make_home


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return make_home(tmp_path / "server", gateway_port=4433)


@pytest.fixture
def say(
    home: ServerHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run one command; (exit code, stdout, stderr)."""

    def run(*arguments: str, where: Path = home.root) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flower-server", *arguments, "--home", str(where)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def publish(home: ServerHome, seed: int) -> None:
    key = SigningKey.load(home.signing_key)
    registry = Registry(home.registry, key, key.public_hex)
    record = InputRecord(sha256=f"{seed:064d}", weight=1.0)
    registry.publish(
        random_arrays(registry.spec, seed), strategy="fedit", inputs=[record], gate={"reason": "ok"}
    )


def test_a_home_that_is_not_set_up_is_one_line_and_a_hint(say: Any, tmp_path: Path) -> None:
    for command in ("up", "status", "nodes", "history", "rollback", "validate"):
        code, out, err = say(command, where=tmp_path / "nothing")
        assert (code, out) == (2, "")
        assert err.splitlines()[0].startswith("error: there is no server at")
        assert err.splitlines()[1].startswith("hint: ")
        assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from federation.errors import ConfigError

    monkeypatch.setattr(
        sys, "argv", ["flower-server", "--debug", "status", "--home", str(tmp_path)]
    )
    with pytest.raises(ConfigError):
        main()


def test_the_home_may_stand_before_the_command(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["flower-server", "--home", str(home.root), "status", "--json"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["home"] == str(home.root)


def test_invite_prints_the_invitation_alone(say: Any, home: ServerHome, tmp_path: Path) -> None:
    code, out, err = say("invite", "ana")
    assert code == 0
    assert decode(out).label == "ana"
    assert "hand it over privately" in err
    code, out, _ = say("invite", "ben", "--out", str(tmp_path / "ben.txt"), "--json")
    assert json.loads(out)["file"] == str(tmp_path / "ben.txt")
    assert (tmp_path / "ben.txt").stat().st_mode & 0o777 == 0o600
    assert decode((tmp_path / "ben.txt").read_text()).label == "ben"


def test_nodes_lists_counts_and_no_secret(say: Any, home: ServerHome) -> None:
    say("invite", "ana")
    code, out, _ = say("nodes", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert (row["name"], row["status"], row["bytes_up"], row["merged"]) == ("ana", "invited", 0, 0)
    assert "token_sha256" not in row
    assert "ana" in say("nodes")[1]


def test_status_of_a_server_that_is_down(say: Any, home: ServerHome) -> None:
    Intake(home.intake_db).record_merged("a" * 64, node="1" * 16, version=1)
    found = json.loads(say("status", "--json")[1])
    assert (found["up"], found["healthy"], found["current"]) == (False, False, 0)


def test_a_round_needs_a_server_that_is_up(say: Any) -> None:
    code, _, err = say("round", "--now")
    assert code == 70
    assert "the server is not up" in err
    assert say("round")[0] == 2
    assert say("round", "--now", "--mode", "other")[0] == 2


def test_history_rollback_and_deploy(say: Any, home: ServerHome) -> None:
    for seed in (1, 2, 3):
        publish(home, seed)
    back = json.loads(say("rollback", "--json")[1])
    assert (back["version"], back["weights_of"]) == (4, 2)
    back = json.loads(say("rollback", "--json")[1])
    assert (back["version"], back["weights_of"]) == (5, 1)
    chosen = json.loads(say("deploy", "v3", "--json")[1])
    assert (chosen["version"], chosen["weights_of"]) == (6, 3)
    rows = json.loads(say("history", "--json")[1])
    assert [row["strategy"] for row in rows[4:]] == ["rollback", "rollback", "deploy"]
    assert [row["version"] for row in rows if row["current"]] == [6]
    hashes = [row["tensors_sha256"] for row in rows]
    assert (hashes[4], hashes[5], hashes[6]) == (hashes[2], hashes[1], hashes[3])
    assert "fedit" in say("history")[1]


def test_there_is_nothing_before_version_0(say: Any) -> None:
    code, _, err = say("rollback")
    assert code == 2
    assert "no version before" in err


@pytest.mark.parametrize("version", ["v9", "latest", "../v0", "-1x"])
def test_an_unknown_version_is_refused(say: Any, version: str) -> None:
    code, out, err = say("deploy", version)
    assert code in (2, 10)
    assert out == ""
    assert "Traceback" not in err


def test_an_unknown_node_is_refused(say: Any) -> None:
    code, _, err = say("ban", "eve")
    assert code == 2
    assert "no node called 'eve'" in err


def test_admit_refuses_keys_that_are_none(say: Any, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text("nonsense")
    key = str(tmp_path / "key.pub")
    short = say("admit", "ana", "--supernode-key", key, "--signing-key", "ab")
    wrong = say("admit", "ana", "--supernode-key", key, "--signing-key", "ab" * 32)
    missing = say("admit", "ana", "--supernode-key", "nowhere", "--signing-key", "ab" * 32)
    assert [short[0], wrong[0], missing[0]] == [2, 41, 2]


@pytest.mark.security
def test_h03_a_quorum_of_nobody_is_refused(say: Any, tmp_path: Path) -> None:
    code, _, err = say("init", "--quorum", "0", where=tmp_path / "new")
    assert code == 2
    assert "'quorum'" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [("quorun=3", "did you mean 'quorum'"), ("quorum", "is not a setting"), ("rank=0", "'rank'")],
)
def test_a_wrong_setting_is_named(say: Any, tmp_path: Path, setting: str, message: str) -> None:
    code, _, err = say("init", "--set", setting, where=tmp_path / "new")
    assert code == 2
    assert message in err
