"""What is taken out of every text that is written, and what stays."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from federation import redaction
from federation.redaction import redact

ONION = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad"
KEY = "N2NU7BSRL6YODZCYPN4CREB54TYLKGIE2KYOQWLFYC23ZJVCE5DQ"
HEX = "0123456789abcdef" * 4
INVITATION = "conscience1:eyJhZGRyZXNzIjoiMTI3LjAuMC4xOjEiLCJ0b2tlbiI6ImEtYl9jIn0"

GONE = {
    f"dialling {ONION}.onion:443": "dialling [onion]:443",
    f"a descriptor of {ONION} arrived": "a descriptor of [onion] arrived",
    f"https://www.{ONION.upper()}.onion/health": "https://[onion]/health",
    f"{ONION[:-3]}.onion lacks a few characters": "[onion] lacks a few characters",
    f"{ONION}:descriptor:x25519:{KEY}": "[onion]:descriptor:x25519:[key]",
    f"ONION_CLIENT_AUTH_ADD {ONION} x25519:{'aB+/' * 10}aB8=": (
        "ONION_CLIENT_AUTH_ADD [onion] x25519:[key]"
    ),
    f"ClientAuthV3={KEY}": "ClientAuthV3=[key]",
    f"private_key=ED25519-V3:{'aB+/' * 21}aA==": "private_key=[redacted]",
    f"key ED25519-V3:{'aB+/' * 21}aA==": "key ED25519-V3:[key]",
    f"join {INVITATION} now": "join [invitation] now",
    f"flwr-clientapp --token {HEX} --insecure": "flwr-clientapp --token [redacted] --insecure",
    f'{{"token": "{HEX}", "n": 1}}': '{"token": "[redacted]", "n": 1}',
    f"HF_TOKEN=hf_{HEX[:30]}": "HF_TOKEN=[redacted]",
    f"the task's token {HEX} was refused": "the task's token [redacted] was refused",
    f"onion-key: {HEX}": "onion-key: [redacted]",
    f"Private-Key={HEX}": "Private-Key=[redacted]",
    f'{{"cookies": ["a=1; b=22", "{HEX}"]}}': '{"cookies": ["[redacted]", "[redacted]"]}',
    "password: correct-horse": "password: [redacted]",
    f"(b'flwr-signature', b'{HEX}')": "(b'flwr-signature', b'[redacted]')",
    "flwr-timestamp: 2026-01-01T00:00:00+00:00": "flwr-timestamp: [redacted]",
    "Authorization: Bearer abc.def": "Authorization: [redacted]",
    "{'Cookie': 'session=abc; other=def', 'a': 1}": "{'Cookie': '[redacted]', 'a': 1}",
    "Set-Cookie: s=1; HttpOnly\nnext": "Set-Cookie: [redacted]\nnext",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\nbnNz\n-----END OPENSSH PRIVATE KEY-----\nx": (
        "[key]\nx"
    ),
    "read /home/someone/ConscienceAI/outbox": "read ~/ConscienceAI/outbox",
    "File '/Users/someone/x.py'": "File '~/x.py'",
    r"C:\\Users\\someone\\texts": r"~\\texts",
    "peer 203.0.113.7:9001 closed": "peer [ip]:9001 closed",
    "peer [2001:db8::1]:443 closed": "peer [[ip]]:443 closed",
}
KEPT = (
    f"package {HEX} merged into v3",
    "tor 0.4.9.11 and stem 1.8.2 on 127.0.0.1:9050, 10.1.2.3, 192.168.0.7 and [::1]:80",
    "2026-01-01 12:34:56,123 INFO client.cycle: 512 tokens, max_tokens=64, tokens: 123456789",
    "node 0123456789abcdef is online; flwr-serverapp: started",
    "Paste the whole text that starts with conscience1:",
    "the address of the server ends in .onion",
    "std::vector and a[::2], at 1:2:3:4:5:6:7:8",
    "cookie authentication is on, an authorization is needed",
)


@pytest.mark.security
@pytest.mark.parametrize("text", GONE, ids=range(len(GONE)))
def test_h24_what_nobody_else_should_read_is_taken_out(text: str) -> None:
    assert redact(text) == GONE[text]
    assert redact(GONE[text]) == GONE[text], "once is enough"


@pytest.mark.parametrize("text", KEPT, ids=range(len(KEPT)))
def test_what_a_reader_needs_stays(text: str) -> None:
    assert redact(text) == text


def test_the_home_folder_is_a_tilde_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/someone")
    assert redact("/srv/someone/texts of /srv/someone-else") == "~/texts of /srv/someone-else"
    monkeypatch.setenv("HOME", "/")
    assert redact("/srv/someone/texts") == "/srv/someone/texts"


def test_a_redacted_report_is_still_json() -> None:
    report = {"why": [*GONE, *KEPT], "lost": [{"node": "a" * 16, "at": 'say "hi" \\ there'}]}
    cleaned = json.loads(redact(json.dumps(report)))
    assert cleaned["lost"] == report["lost"]
    assert not any(secret in json.dumps(cleaned) for secret in (ONION, KEY, INVITATION, "someone"))


def test_it_costs_no_more_than_writing_does() -> None:
    lines = [text for text in KEPT for _ in range(2000)]
    began = time.process_time()
    for line in lines:
        redact(line)
    assert (time.process_time() - began) / len(lines) < 50e-6


def test_a_hostile_line_costs_no_more_than_its_length() -> None:
    hostile = ("a.onio" * 4000, "1." * 12_000, ":" * 24_000, "token" * 5000, "/home/" * 4000)
    for text in (*hostile, "conscience1" * 2000 + ".onion", "2222:" * 5000, "b" * 24_000):
        began = time.process_time()
        redact(text)
        assert time.process_time() - began < 0.5, text[:10]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a handler of a logger called "redacted" writes."""
    made = io.StringIO()
    handler = logging.StreamHandler(made)
    logging.getLogger("redacted").addHandler(handler)
    yield made
    logging.getLogger("redacted").removeHandler(handler)


@pytest.mark.security
def test_h24_log_records_are_clean_whoever_handles_them(stream: io.StringIO) -> None:
    redaction.install()
    redaction.install()
    logger = logging.getLogger("redacted")
    logger.warning("dialling %s with %s", f"{ONION}.onion", {"token": HEX})
    try:
        int(ONION)
    except ValueError:
        logger.exception("failed")
    logger.warning("odd %d", ONION)
    assert ONION not in stream.getvalue()
    assert HEX not in stream.getvalue()
    assert "dialling [onion] with {'token': '[redacted]'}" in stream.getvalue()
    assert "invalid literal for int() with base 10: '[onion]'" in stream.getvalue()
    assert "odd %d" in stream.getvalue()


@pytest.mark.security
def test_h24_an_uncaught_exception_prints_a_clean_traceback() -> None:
    code = (
        "import threading\n"
        "from federation import redaction\n"
        "redaction.install()\n"
        f"def fail(): raise ValueError('{ONION}.onion')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "fail()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("ValueError: [onion]") == 2
    assert ONION not in done.stderr


def test_nothing_heavy_is_imported_for_it() -> None:
    code = "import sys, federation.redaction; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"httpx", "pydantic", "stem", "ipaddress", "asyncio"} & set(done.stdout.split())
