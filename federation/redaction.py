"""Takes onion addresses, keys, tokens and invitations out of everything that is written.

`redact` cleans a text. `install` puts it before every log record and every uncaught exception of
the process, whatever handlers its libraries add later; what children print is cleaned by
`federation.process_log`. A net, not a licence: none of this belongs in a message to begin with.

    [onion]       onion addresses, with or without their ending
    [invitation]  what begins with conscience1:
    [key]         x25519 and ed25519 keys in tor's forms, PEM private keys
    [redacted]    values of tokens, passwords, Authorization, cookies, identity headers of Flower,
                  and those of lists and objects of them, up to three within one another
    0             numbers of eight digits and more under such a name in JSON
    ~             home folders
    [ip]          addresses that are neither this machine's nor of a private network

Hashes, public keys and pseudonyms of nodes stay. JSON stays JSON: what is replaced holds no quote
and no backslash, nor does what is put there.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?=\s*(?:[,}\]]|$))"
_OF_JSON = rf"\s*(?:null\b|true\b|false\b|[\[{{]|{_NUMBER})"  # values of JSON that are no strings
# Between a name and its value: as it comes, as JSON or a dict of Python, as a tuple. A quote before
# a sign of JSON is the end of a string, not its beginning.
_QUOTE = r"""b?["'](?!\s*[,:}\]])"""
_SIGN = (
    rf"""(?:\s*[:=]\s*(?:{_QUOTE})?|["']\s*[:=]\s*\[?\s*{_QUOTE}"""
    rf"""|["']\s*[:=](?!{_OF_JSON}|\s*["'])\s*|["']\s*,\s*{_QUOTE})"""
)
_SECRETS = r"token|secret|passw(?:or)?d|api[_-]?key|onion[_-]key|private[_-]key"
_NAMES = rf"{_SECRETS}|cookie|authorization"
_SECRET_WORDS = ("token", "secret", "passw", "api", "onion", "private")
_NAME_WORDS = (*_SECRET_WORDS, "cookie", "authorization")
# Each pattern is tried only where one of its words stands in the lower-cased text: looking for a
# word costs a fraction of trying a pattern. None of them backtracks over more than one word.
_RULES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (("conscience1:",), re.compile(r"conscience1:[\w+/=-]{16,}", re.I), "[invitation]"),
    ((".onion",), re.compile(r"(?<![\w.-])[\w.-]{16,}\.onion(?![\w-])", re.I), "[onion]"),
    (
        ("private key-----",),
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\n|[\w+/=\s])*(?:-----END [A-Z ]*KEY-----)?"
        ),
        "[key]",
    ),
    (
        ("authorization", "cookie", "flwr-"),
        re.compile(
            r"((?:authorization|cookie|flwr-(?:public-key|signature|timestamp|task-token"
            rf"|superexec-[a-z0-9-]+)){_SIGN})[^\"'\\\n]+",
            re.I,
        ),
        r"\1[redacted]",
    ),
    (
        _SECRET_WORDS,
        re.compile(
            rf"((?:{_SECRETS})(?:{_SIGN}|\s+(?=[0-9a-f]{{32}})|(?<=-token)\s+))"
            r"[^\s\"'\\,;()\[\]{}]{8,}",
            re.I,
        ),
        r"\1[redacted]",
    ),
    (
        _NAME_WORDS,
        re.compile(rf"((?:{_NAMES})[\"']\s*:\s*-?)\d{{8,}}", re.I),
        r"\g<1>0",  # a number stays one
    ),
    (("25519",), re.compile(r"(25519(?:-v3)?\s*[:=]\s*)[\w+/-]{40,}=*", re.I), r"\1[key]"),
    (
        ("/home/", "/users/", "/root", "\\users\\"),
        re.compile(
            r"(?<![\w.~])(?:/(?:home|Users)/[^/\s\"'\\:,;<>|]+|/root(?![\w-])"
            r"|[A-Za-z]:\\+Users\\+[^/\s\"'\\:,;<>|]+)"
        ),
        "~",
    ),
)


def _within(quote: str, other: str) -> re.Pattern[str]:
    """Lists and objects under such a name, of which the rules take the first value only.

    Name and values stand in quotes of one kind: so a list in a string of JSON never goes on behind
    that string.
    """
    parts = rf"""b?{quote}(?:[^"'\\\n]|{other}|\\.)*+{quote}|[^"'\[\](){{}}]"""
    inside = rf"(?:{parts})*+"
    for _ in range(2):
        inside = rf"(?:{parts}|[\[({{]{inside}[\])}}])*+"
    name = rf"{quote}[\w-]{{0,24}}(?:{_NAMES})s?{quote}"
    return re.compile(rf"{name}\s*:\s*[\[({{]{inside}[\])}}]", re.I)


_WITHIN = (_within('"', "'"), _within("'", "(?!)"))
_VALUE = re.compile(r"""(["'])((?:(?!\1)[^\\\n]|\\.)*+)\1""")
_COLON = re.compile(r"\s*:")
_LONG = 8  # characters, as in the rules above
_ONION_LENGTH, _KEY_LENGTH = 56, 52
_BASE32_WORD = re.compile(
    r"(?<![A-Za-z0-9])(?:[a-z2-7]{52}(?:[a-z2-7]{4})?|[A-Z2-7]{52}(?:[A-Z2-7]{4})?)(?![A-Za-z0-9])"
)
# No look-behind: a pattern that begins with a set of characters is searched several times faster.
_IP_V4 = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){3,9}(?!\w)")
_IP_V6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,}")
_OURS = re.compile(r"(?:0|10|127|255)\.|169\.254\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.")


def redact(text: str) -> str:
    """Return `text` without what nobody else should read; see the module's first lines."""
    lowered = text.lower()
    for words, pattern, shown in _RULES:
        for word in words:
            if word in lowered:
                text = pattern.sub(shown, text)
                break
    if any(sign in text for sign in "[({") and any(word in lowered for word in _NAME_WORDS):
        for within in _WITHIN:
            text = within.sub(_values, text)
    if max(map(len, text.split()), default=0) >= _KEY_LENGTH:
        text = _BASE32_WORD.sub(_base32_word, text)
    if text.count(".") >= 3:
        text = _IP_V4.sub(_address, text)
    if "::" in text or text.count(":") >= 7:
        text = _IP_V6.sub(_long_address, text)
    home = os.environ.get("HOME", "")
    if len(home) > 1 and home in text:
        text = _folder(home).sub("~", text)
    return text


def install() -> None:
    """Clean every log record and uncaught exception of this process from now on; idempotent.

    For the entrance of a program only: it holds for the whole process.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _CleanRecords):
        logging.setLogRecordFactory(_CleanRecords(make))
    sys.excepthook = _print_exception
    threading.excepthook = _print_thread_exception


class _CleanRecords:
    """A log record factory: the message is composed and cleaned before any handler sees it."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make
        self._format = logging.Formatter()

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: ANN401 - logging's
        record = self._make(*args, **kwargs)
        try:
            text = record.getMessage()
        except (TypeError, ValueError, KeyError):  # arguments that do not fit: somebody's mistake
            text = f"{record.msg} {record.args}"
        record.msg, record.args = redact(text), ()
        if record.exc_info:
            record.exc_text = redact(self._format.formatException(record.exc_info))
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return record


def _print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _print_thread_exception(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit or failure.exc_value is None:
        return
    name = failure.thread.name if failure.thread else "?"
    sys.stderr.write(f"Exception in thread {name}:\n")
    _print_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)


def _values(found: re.Match[str]) -> str:
    return _VALUE.sub(_value, found[0])


def _value(found: re.Match[str]) -> str:
    is_name = _COLON.match(found.string, found.end())
    return found[0] if is_name or len(found[2]) < _LONG else f"{found[1]}[redacted]{found[1]}"


def _base32_word(found: re.Match[str]) -> str:
    return "[onion]" if len(found[0]) == _ONION_LENGTH else "[key]"


def _address(found: re.Match[str]) -> str:
    numbers = found[0].split(".")
    is_address = len(numbers) == 4 and all(len(n) <= 3 and int(n) <= 255 for n in numbers)
    return "[ip]" if is_address and not _OURS.match(found[0]) else found[0]


def _long_address(found: re.Match[str]) -> str:
    import ipaddress

    try:
        ipaddress.IPv6Address(found[0].rstrip(":"))
    except ValueError:
        return found[0]
    return "[ip]"


@cache
def _folder(path: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(path.rstrip('/'))}(?![\w-])")
