"""Any bytes as a form, a name or settings: a clean refusal or a file of our own naming."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.chat_shelf import plain
from federation.errors import ConfigError
from rag.chat.web.settings import SettingsFile
from rag.chat.web.shelf import LABEL_LENGTH, label_of
from tests.chat_bench import Bench, chat_of

pytestmark = pytest.mark.security
SAFE = re.compile(r"[\w \-]{1,60}")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["params", "model", "source", "evidence", "schema", "previous", "x"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with chat_of(tmp_path_factory.mktemp("fuzzed") / "node") as running:
        yield running


@given(st.text(max_size=300) | st.sampled_from(["..", "/", "\\", "\0", "a/../b", "C:\\x", ".txt"]))
def test_h01_a_label_is_never_a_path(name: str) -> None:
    label = label_of(name)
    assert len(label) <= LABEL_LENGTH
    assert "/" not in label
    assert SAFE.fullmatch(plain(label))
    assert SAFE.fullmatch(plain(name))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=3000), st.text("ab-", max_size=5), st.booleans())
def test_h08_any_bytes_as_a_form_are_refused_cleanly(
    bench: Bench, body: bytes, boundary: str, is_framed: bool
) -> None:
    if is_framed:
        head = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        mark = boundary.encode()
        body = b"--" + mark + b"\r\n" + head + body + b"\r\n--" + mark + b"--\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = bench.client.post("/api/documents", content=body, headers=headers)
    assert answer.status_code in (201, 400, 422), answer.text
    for path in bench.home.documents.rglob("*") if bench.home.documents.exists() else ():
        assert path.is_dir() or SAFE.fullmatch(path.stem)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_any_settings_are_taken_or_refused_and_what_is_held_stays_sound(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path: Path = tmp_path_factory.mktemp("settings") / "webchat_settings.json"
    held = SettingsFile(path)
    try:
        held.put(content)
    except ConfigError:
        assert not path.exists()
    path.write_text(json.dumps(content), encoding="utf-8")
    now = SettingsFile(path)
    assert now.current().params.rag_top_k in range(1, 21)
    assert now.overview()["problem"] == "" or now.current().source == "default"
