"""The chat's token lives from start to start in a private file, and is changed when wanted."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.chat_token import TOKEN, keep_token
from client.cli import run
from federation.errors import PermissionsError


def test_a_token_is_made_once_privately_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "chat.token"
    token = keep_token(path)
    assert TOKEN.fullmatch(token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keep_token(path) == token
    other = keep_token(path, anew=True)
    assert other != token
    assert keep_token(path) == other


@pytest.mark.security
@pytest.mark.parametrize("held", ["", "\n", "short", "x" * 42, "y" * 43 + "\nz", "é" * 43])
def test_h05_what_is_no_whole_token_is_replaced_and_opens_nothing(
    tmp_path: Path, held: str
) -> None:
    path = tmp_path / "chat.token"
    path.write_text(held, encoding="utf-8")
    path.chmod(0o600)
    token = keep_token(path)
    assert TOKEN.fullmatch(token)
    assert token != held


@pytest.mark.security
def test_h05_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.token"
    keep_token(path)
    path.chmod(0o644)
    with pytest.raises(PermissionsError):
        keep_token(path)


def test_a_new_token_is_asked_for_with_the_page_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chat", "--new-token", "--once", "x"]) == 2
    assert "--new-token is for the page" in capsys.readouterr().err
