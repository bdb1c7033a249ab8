"""`llm`, a command line tool that many use, talks with the server as docs/chat.md says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chat_bench import chat_of
from tests.integration.test_chat_web import QUESTION, VOLCANO

pytestmark = pytest.mark.skipif(find_spec("llm") is None, reason="needs llm (the extra dev)")
MODELS = """\
- model_id: conscience
  model_name: semilla+rag
  api_base: {url}/v1
  api_key_name: conscience
"""


class Llm:
    """The program with a home of its own.

    Args:
        folder: its settings and logs.
        url: of the chat's server.
        token: opens it.
    """

    def __init__(self, folder: Path, url: str, token: str) -> None:
        folder.mkdir()
        (folder / "keys.json").write_text(json.dumps({"conscience": token}))  # as llm keys set does
        (folder / "extra-openai-models.yaml").write_text(MODELS.format(url=url))
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environment = kept | {"LLM_USER_PATH": str(folder), "PYTHONUTF8": "1"}

    def __call__(self, *arguments: str) -> str:
        """Run it; its output."""
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def llm(tmp_path: Path) -> Iterator[Llm]:
    with chat_of(tmp_path / "node") as bench:
        bench.fill()
        bench.upload("volcan.txt", VOLCANO.encode())
        yield Llm(tmp_path / "llm", bench.url, bench.token)


def test_llm_asks_streamed_and_goes_on_whole(llm: Llm) -> None:
    options = ("-s", "Sé breve.", "-o", "temperature", "0.2")
    assert "19 de septiembre de 2021" in llm("-m", "conscience", *options, QUESTION)
    assert "85 días" in llm("-c", "--no-stream", "¿Cuánto duró la erupción?")
