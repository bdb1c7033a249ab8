"""`flower-client chat --web` as a person starts it."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

import httpx

from client.cli import run
from tests.integration.test_chat_web import ROOT, until


def test_the_command_prints_its_link_serves_and_ends_on_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "client", "chat", "--web", "--port", "0"]
    child = subprocess.Popen(
        [*command, "--home", str(tmp_path / "node")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        found = re.search(r"(http://127\.0\.0\.1:\d+)/#token=(\S+)", child.stdout.readline())
        assert found is not None
        url, token = found.groups()
        assert token in child.stdout.readline()  # the key for other programs
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
            until(lambda: client.get("/api/health").status_code == 200)
            answer = client.post("/api/chat", json={"message": "hola"})
            assert answer.json()["message_id"]
            taken = subprocess.run(
                [*command[:-1], url.rpartition(":")[2], "--home", str(tmp_path / "other")],
                cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            assert (taken.returncode, "is taken" in taken.stderr) == (1, True)
    finally:
        child.terminate()
        said = child.communicate(timeout=60)
    assert child.returncode == 0
    assert token not in "".join(said)
    files = [path for path in (tmp_path / "node").rglob("*") if path.is_file()]
    holding = [path for path in files if token.encode() in path.read_bytes()]
    assert holding == [tmp_path / "node" / "keys" / "chat.token"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    with subprocess.Popen(
        [*command, "--home", str(tmp_path / "node")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as again:  # fmt: skip
        assert again.stdout is not None
        assert again.stdout.readline().rstrip().endswith(f"/#token={token}")  # other programs go on
        again.terminate()


def test_the_onion_is_for_the_page_alone(tmp_path: Path) -> None:
    assert run(["chat", "--onion", "--home", str(tmp_path / "node")]) == 2
