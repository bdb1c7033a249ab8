"""Asking for an invitation: nothing of it is shown, and nothing of it is cut off."""

from __future__ import annotations

import io
import os
import pty
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from client import prompt

LONG = "conscience1:" + "".join(f"{number:05d}" for number in range(2000))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The far side of a pseudo-terminal whose near side is stdin."""
    far, near = pty.openpty()
    with os.fdopen(near, "r", closefd=True) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield far
    os.close(far)


def paste(terminal: int, text: str) -> threading.Thread:
    """Type `text` from another thread once it would not be shown, as a terminal does: in pieces."""

    def write() -> None:
        while termios.tcgetattr(terminal)[3] & termios.ECHO:
            time.sleep(0.01)
        data = text.encode()
        while data:
            data = data[os.write(terminal, data[:1000]) :]

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def echoed(terminal: int) -> bytes:
    os.set_blocking(terminal, False)
    try:
        return os.read(terminal, 65536)
    except BlockingIOError:
        return b""


@pytest.mark.security
def test_h05_a_long_paste_comes_whole_and_is_not_shown(terminal: int) -> None:
    typing = paste(terminal, LONG + "\n")
    assert prompt.ask("? ").strip() == LONG
    typing.join()
    assert echoed(terminal).strip() == b""


def test_an_invitation_that_a_mail_program_wrapped_comes_whole(terminal: int) -> None:
    lines = [LONG[start : start + 76] for start in range(0, len(LONG), 76)]
    typing = paste(terminal, "\n" + "\n".join(lines) + "\n")
    assert "".join(prompt.ask("? ").split()) == LONG
    typing.join()


def test_what_was_deleted_is_not_read_and_ctrl_d_ends(terminal: int) -> None:
    typing = paste(terminal, "abX\x7fc\x04")
    assert prompt.ask("? ") == "abc"
    typing.join()


def test_the_terminal_is_left_as_it_was(terminal: int) -> None:
    before = termios.tcgetattr(sys.stdin.fileno())
    typing = paste(terminal, "abc\n")
    prompt.ask("? ")
    typing.join()
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_without_a_terminal_stdin_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{LONG}\n"))
    assert prompt.ask("? ").strip() == LONG
