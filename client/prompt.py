"""Asks for a secret on the terminal: it is not shown, and it may be long."""

from __future__ import annotations

import os
import select
import sys
from getpass import getpass

PAUSE_S = 0.2  # a pasted text of several lines comes without such a pause
END = 4  # Ctrl-D
BACKSPACES = (8, 127)


def ask(question: str) -> str:
    """Ask for a text that nobody sees; without a terminal it is read from stdin, whole."""
    if not sys.stdin.isatty():
        return sys.stdin.read()
    if os.name == "nt":
        return getpass(question)
    print(question, end="", file=sys.stderr, flush=True)  # noqa: T201 - it talks
    try:
        return _read_unseen(sys.stdin.fileno())
    finally:
        print(file=sys.stderr)  # noqa: T201


def _read_unseen(terminal: int) -> str:
    """Read up to Enter without the terminal's line buffer, which holds 4095 bytes or even 1024."""
    import termios

    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    try:
        return _collect(terminal).decode("utf-8", errors="replace")
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _collect(terminal: int) -> bytes:
    text = bytearray()
    while chunk := os.read(terminal, 4096):
        for byte in chunk:
            if byte == END:
                return bytes(text)
            if byte in BACKSPACES:
                del text[-1:]
            else:
                text.append(byte)
        if text.endswith(b"\n") and text.strip() and not _more_comes(terminal):
            break
    return bytes(text)


def _more_comes(terminal: int) -> bool:
    return bool(select.select([terminal], [], [], PAUSE_S)[0])
