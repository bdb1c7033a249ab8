"""The child that reads hostile bytes: hung, crashed or hungry, it costs one job and no more."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from federation.errors import FormatError
from rag.ingest import reading
from rag.ingest.entries import Entry
from rag.ingest.reader import Reader
from tests.feed_samples import item, rss, twenty

URL = "https://news.example/rss"


def slow_feed() -> bytes:
    """Takes a parser many seconds: half a million elements in what is no entry."""
    return b"<rss version='2.0'><channel>" + b"<x:a><b/></x:a>" * 300_000 + b"</channel></rss>"


def test_one_child_reads_feeds_and_files() -> None:
    with Reader() as reader:
        assert len(reader.feed(twenty(), url=URL).entries) == 20
        assert len(reader.feed(twenty(), url=URL, max_items=7).entries) == 7
        (entry,) = reader.file(b"# Title\n\nSome text.", "notes.md")
        assert entry.title == "Title"


def test_errors_are_sentences_in_the_owner_s_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSCIENCE_LANG", "es")
    with Reader() as reader, pytest.raises(FormatError) as caught:
        reader.feed(b"<html/>", url=URL)
    assert "no es" in caught.value.message


@pytest.mark.security
def test_h23_a_feed_that_takes_too_long_is_named_and_the_next_is_read() -> None:
    with Reader(deadline_s=1.0) as reader:
        started = time.monotonic()
        with pytest.raises(FormatError, match="too long"):
            reader.feed(slow_feed(), url=URL)
        assert time.monotonic() - started < 30  # on a busy machine; without a limit for ever
    with Reader(deadline_s=30.0) as reader:
        assert len(reader.feed(twenty(), url=URL).entries) == 20


def test_a_child_that_sleeps_is_ended_by_the_clock() -> None:
    with Reader(deadline_s=0.5) as reader:
        child = reader._start("feed")
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(FormatError, match="too long"):
            reader.feed(twenty(), url=URL)
        assert child.poll() is not None


@pytest.mark.security
def test_a_child_that_dies_is_replaced() -> None:
    with Reader() as reader:
        reader.feed(twenty(), url=URL)
        assert reader._child is not None
        first = reader._child.pid
        os.kill(first, signal.SIGKILL)
        reader._child.wait()
        assert len(reader.feed(twenty(), url=URL).entries) == 20
        assert reader._child.pid != first


def test_no_child_is_left_behind() -> None:
    with Reader() as reader:
        reader.feed(twenty(), url=URL)
        child = reader._child
        assert child is not None
    assert child.poll() is not None


@pytest.mark.security
def test_h23_the_child_has_a_limit_of_memory_and_may_write_no_file() -> None:
    with Reader() as reader:
        reader.feed(twenty(), url=URL)
        assert reader._child is not None
        limits = Path(f"/proc/{reader._child.pid}/limits")
        if not limits.exists():
            pytest.skip("needs /proc")
        rows = {line[:26].strip(): line[26:].split()[0] for line in limits.read_text().splitlines()}
        assert rows["Max address space"] == str(reading.MEMORY_BYTES)
        assert rows["Max file size"] == "0"
        variables = Path(f"/proc/{reader._child.pid}/environ").read_bytes()
        assert b"CONSCIENCE_" not in variables


def test_the_child_has_no_sockets_unless_something_uses_them() -> None:
    code = """
import sys
from rag.ingest import reading
reading.put_off(*reading.UNUSED)
import rag.ingest.parse, rag.ingest.raw
assert not {"socket", "ssl", "http.client"} & set(sys.modules)
import feedparser, urllib.request
feed = b"<rss><channel><item><title>x</title></item></channel></rss>"
assert len(feedparser.parse(feed).entries) == 1
assert urllib.request.Request("http://a.example/").host == "a.example"
assert issubclass(feedparser.api.http._FeedURLHandler, urllib.request.HTTPRedirectHandler)
assert "ssl" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_functions_for_rare_dates_are_loaded_by_the_first_call() -> None:
    code = """
import sys
from rag.ingest import reading
reading.put_off(*reading.SELDOM_USED, stand_in=reading._LaterFunctions)
import rag.ingest.raw as raw
assert "feedparser.datetimes.iso8601" not in sys.modules
assert raw.moment("Tue, 05 Aug 2025 10:00:00 GMT") is not None
assert "feedparser.datetimes.iso8601" not in sys.modules
assert raw.moment("2025-08-05T10:00Z") == raw.moment("Tue, 05 Aug 2025 10:00:00 GMT")
assert "feedparser.datetimes.iso8601" in sys.modules
import feedparser.datetimes
assert feedparser.datetimes._date_handlers
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def answers_of(*jobs: tuple[dict[str, Any], bytes]) -> list[dict[str, Any]]:
    data = b"".join(
        json.dumps(job | {"size": len(body), "deadline_s": 0.0, "language": "en"}).encode()
        + b"\n"
        + body
        for job, body in jobs
    )
    out = io.BytesIO()
    reading.serve(io.BytesIO(data), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_the_child_answers_each_job_with_one_line() -> None:
    now = "2026-01-01T00:00:00+00:00"
    job = {"kind": "feed", "now": now, "url": URL, "content_type": "", "tag": "", "max_items": 5}
    answers = answers_of(
        (job, rss([item(1)])),
        (job, b"rubbish"),
        ({"kind": "file", "now": now, "name": "a.txt"}, "Ñandú".encode()),
    )
    assert Entry._make(answers[0]["entries"][0]).title == "Item 1"
    assert "no feed" in answers[1]["error"]
    assert Entry._make(answers[2]["entries"][0]).text == "Ñandú"


@pytest.mark.parametrize("err", [MemoryError(), RecursionError(), ValueError("x"), KeyError("y")])
def test_whatever_a_library_raises_is_a_named_error(
    err: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise err

    monkeypatch.setattr("rag.ingest.parse.parse_feed", fail)
    job = {"kind": "feed", "now": "2026-01-01T00:00:00+00:00", "url": URL, "content_type": ""}
    (answer,) = answers_of((job | {"tag": "", "max_items": 5}, b""))
    assert answer["error"]
