"""`/v1` with OpenAI's own client, and with requests as other programs send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from rag.chat.web.openai_forms import Cut
from tests.chat_bench import CONFIG, Bench, chat_of
from tests.integration.test_chat_web import QUESTION, VOLCANO
from tests.scripted_writer import ScriptedWriter
from tests.tiny_encoder import make_tiny_encoder

TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
RECORDED = Path(__file__).parents[1] / "recorded" / "open_webui.jsonl"
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
WRITTEN = "La ciudad amanece tranquila. FIN Nadie lee esto."


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with chat_of(tmp_path / "node") as running:
        running.fill()
        running.upload("volcan.txt", VOLCANO.encode())
        yield running


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Bench]:
    with chat_of(tmp_path / "node", writer=ScriptedWriter(WRITTEN)) as running:
        yield running


def client_of(bench: Bench, key: str = "") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{bench.url}/v1", api_key=key or bench.token, max_retries=0)


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_models_are_listed_with_and_without_retrieval(bench: Bench) -> None:
    with client_of(bench) as client:
        assert [model.id for model in client.models.list()] == ["semilla", "semilla+rag"]


def test_a_completion_cites_its_sources(bench: Bench) -> None:
    with client_of(bench) as client:
        came = client.chat.completions.create(model="semilla+rag", messages=asked(QUESTION))
    text = came.choices[0].message.content or ""
    assert "19 de septiembre de 2021" in text
    assert came.choices[0].finish_reason == "stop"
    extra = came.model_extra or {}
    assert extra["citations"][0]["title"] == "volcan"
    assert extra["style"] == "extractive"
    assert came.usage is not None
    assert bench.client.get("/api/sessions").json() == []  # what others ask is not remembered


def test_a_stream_ends_with_citations_and_usage(bench: Bench) -> None:
    with client_of(bench) as client:
        chunks = list(
            client.chat.completions.create(
                model="semilla+rag", messages=asked(QUESTION), stream=True,
                stream_options={"include_usage": True},
            )
        )  # fmt: skip
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "19 de septiembre de 2021" in text
    last = [c for c in chunks if c.choices][-1]
    assert last.choices[0].finish_reason == "stop"
    assert (last.model_extra or {})["citations"][0]["n"] == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_writes_until_a_stop_or_its_limit(writing: Bench, stream: bool) -> None:
    def answered(**fields: Any) -> tuple[str, str | None, int]:
        with client_of(writing) as client:
            came = client.chat.completions.create(
                model="scripted", messages=asked("hola"), stream=stream, **fields
            )
            if not stream:
                choice = came.choices[0]
                return choice.message.content, choice.finish_reason, came.usage.completion_tokens
            chunks = list(came)
            text = "".join(c.choices[0].delta.content or "" for c in chunks)
            return text, chunks[-1].choices[0].finish_reason, 0

    assert answered()[:2] == (WRITTEN, "stop")
    assert answered(stop="FIN")[:2] == ("La ciudad amanece tranquila. ", "stop")
    text, reason, tokens = answered(max_tokens=4)
    assert (reason, WRITTEN.startswith(text.rstrip())) == ("length", True)
    assert tokens in (0, 4)


def test_earlier_messages_are_read(writing: Bench) -> None:
    messages = [
        {"role": "system", "content": "Eres un pirata."},
        {"role": "user", "content": [{"type": "text", "text": "Me llamo Ana."}]},
        {"role": "assistant", "content": "Hola, Ana."},
        {"role": "user", "content": "¿Cómo me llamo?"},
    ]
    with client_of(writing) as client:
        client.chat.completions.create(model="scripted", messages=messages)
    writer: Any = writing.chat.services.answers.responder().writer
    assert "Me llamo Ana." in writer.read[-1]
    assert "pirata" not in writer.read[-1]  # docs/chat.md: the system's role is ours


def test_a_conversation_recorded_from_open_webui(bench: Bench) -> None:
    """Each request in its order, as `tests/recorded/README.md` tells."""
    lines = RECORDED.read_text(encoding="utf-8").splitlines()
    told = []
    for row in map(json.loads, lines):
        answer = bench.stranger.request(
            row["method"], row["path"], json=row["body"],
            headers={**row["headers"], "Authorization": f"Bearer {bench.token}"},
        )  # fmt: skip
        assert answer.status_code == 200, (row["body"], answer.text)
        if row["body"] is None:
            assert "semilla+rag" in [model["id"] for model in answer.json()["data"]]
        elif row["body"].get("stream"):
            assert answer.text.rstrip().endswith("data: [DONE]")
            told.append(text_of(answer.text))
        else:
            assert answer.json()["choices"][0]["message"]["content"]
    assert len(told) == 2
    assert "19 de septiembre de 2021" in told[0]
    assert "85 días" in told[1]  # "¿Y cuánto duró?" is understood by what was said before


def text_of(stream: str) -> str:
    """The words of a streamed completion."""
    pieces = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    choices = [choice for piece in pieces for choice in piece["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize(
    ("fields", "error", "named"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "gpt-4o"),
        ({"n": 2}, openai.BadRequestError, "'n'"),
        ({"logprobs": True}, openai.BadRequestError, "'logprobs'"),
        ({"frequency_penalty": 1}, openai.BadRequestError, "'frequency_penalty'"),
        ({"tools": [TOOL], "tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, openai.BadRequestError, "user"),
        ({"messages": [PICTURE]}, openai.BadRequestError, "text"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_in_openais_form(
    bench: Bench, fields: dict[str, Any], error: type[openai.APIStatusError], named: str
) -> None:
    wanted: dict[str, Any] = {"model": "semilla", "messages": asked("hola"), **fields}
    with client_of(bench) as client, pytest.raises(error) as refused:
        client.chat.completions.create(**wanted)
    body: Any = refused.value.body
    assert set(body) == {"message", "type", "param", "code"}
    assert named in body["message"]


def test_without_the_key_nothing_is_said(bench: Bench) -> None:
    with client_of(bench, key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_without_an_embedder_embeddings_are_refused(bench: Bench) -> None:
    with client_of(bench) as client, pytest.raises(openai.InternalServerError, match="embedder"):
        client.embeddings.create(model="any", input=["hola"])


def test_the_nodes_own_embedder_makes_the_vectors(tmp_path: Path) -> None:
    encoder = make_tiny_encoder(tmp_path / "encoder")
    config = CONFIG.model_copy(update={"embedder": str(encoder)})
    with chat_of(tmp_path / "node", config=config) as bench, client_of(bench) as client:
        came = client.embeddings.create(model="any", input=["hola", "hola", "otra cosa"])
    first, same, other = (entry.embedding for entry in came.data)
    assert "encoder" in came.model
    assert first == pytest.approx(same, abs=1e-5)
    assert first != pytest.approx(other, abs=1e-3)
    assert sum(x * x for x in first) == pytest.approx(1, abs=1e-4)


def test_vectors_come_as_numbers_or_packed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [[0.5, -0.25], [1.0, 0.0]]
    monkeypatch.setattr(
        bench.chat.services.answers, "embed", lambda texts: ("small@1", vectors[: len(texts)])
    )
    with client_of(bench) as client:
        packed = client.embeddings.create(model="small", input=["a", "b"])
        plain = client.embeddings.create(model="small", input="a", encoding_format="float")
    assert [entry.embedding for entry in packed.data] == vectors
    assert [entry.embedding for entry in plain.data] == vectors[:1]
    assert packed.model == "small@1"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stop_that_comes_in_pieces_is_seen(size: int) -> None:
    text, cut = "uno dos STOP tres", Cut(("STOP",))
    came = [cut.add(text[at : at + size]) for at in range(0, len(text), size)]
    assert "".join(came) + cut.rest() == "uno dos "
    assert cut.is_over
