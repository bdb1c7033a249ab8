"""`flower-server onion`, `backup`, `restore`: what they print, and that no address slips out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from server.config import ServerHome, load_config
from server.onion import Onion
from server.onion_state import OnionState, write_state
from tests.server_home import make_home


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    made = make_home(tmp_path / "server", onion=True)
    for name in ("ana", "ben"):
        Onion(made, load_config(made)).grant(name)
    return made


@pytest.fixture
def say(
    home: ServerHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run one command; (exit code, stdout, stderr)."""

    def run(*arguments: str, where: Path = home.root) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flower-server", "--home", str(where), *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def host_of(home: ServerHome) -> str:
    return Onion(home, load_config(home)).clients.current()[0].host


def test_status_counts_volunteers_and_names_no_address(say: Any, home: ServerHome) -> None:
    code, out, err = say("onion", "status", "--json")
    found = json.loads(out)
    assert (code, found["state"], found["text"]) == (0, "off", "off")
    assert found["addresses"] == [{"name": "hs0", "volunteers": 2, "retires_at": 0.0}]
    assert ".onion" not in out + err + say("onion", "status")[1] + say("status")[1]
    write_state(home.onion, OnionState("degraded", reason="why", server=os.getpid()))
    assert json.loads(say("onion", "status", "--json")[1])["reason"] == "why"
    assert json.loads(say("status", "--json")[1])["onion"] == "degraded: why"


def test_the_address_is_shown_to_whom_asks_for_it(say: Any, home: ServerHome) -> None:
    found = json.loads(say("onion", "status", "--show-address", "--json")[1])
    assert found["addresses"][0]["address"] == f"{host_of(home)}:443"
    lines = say("onion", "status", "--show-address")[1].splitlines()
    assert lines == ["off", f"hs0: 2 volunteers, {host_of(home)}:443"]


def test_rotate_tells_no_address(say: Any, home: ServerHome) -> None:
    before = host_of(home)
    code, out, err = say("onion", "rotate", "--grace", "12h")
    assert code == 0
    assert "the old one ends in 12h" in out
    assert ".onion" not in out + err
    assert host_of(home) != before
    rows = json.loads(say("onion", "status", "--json")[1])["addresses"]
    assert [row["volunteers"] for row in rows] == [2, 2]
    assert [row["retires_at"] > 0 for row in rows] == [True, False]
    assert say("onion", "rotate", "--grace", "soon")[0] == 2


def test_a_check_needs_a_server_that_is_up(say: Any) -> None:
    code, _, err = say("onion", "check")
    assert code == 44
    assert "the server is down" in err


@pytest.mark.parametrize("command", ["status", "check", "rotate"])
def test_a_server_without_an_onion_service_says_so(say: Any, tmp_path: Path, command: str) -> None:
    other = make_home(tmp_path / "other")
    code, _, err = say("onion", command, where=other.root)
    assert code == 2
    assert "no onion service" in err
    assert json.loads(say("status", "--json", where=other.root)[1])["onion"] == "none"


def test_backup_and_restore_by_command(say: Any, home: ServerHome, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    code, out, err = say("backup", str(file), "--json")
    assert (code, json.loads(out)["bytes"]) == (0, file.stat().st_size)
    code, out, err = say("restore", str(file), where=tmp_path / "copy")
    assert code == 0
    assert host_of(ServerHome(tmp_path / "copy")) == host_of(home)
    assert ".onion" not in out + err
    assert say("restore", str(file))[0] == 2
    assert say("backup", str(file))[0] == 2
