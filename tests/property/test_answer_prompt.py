"""Prompts for any text: never over budget, no source cut, the question always there."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from federation.model.choose import SEMILLA
from rag.answer.clean import clean
from rag.answer.prompt import PromptBuilder, Request, Said
from tests.small_search import passage

TEXT = st.text(max_size=400) | st.lists(
    st.sampled_from(
        ["palabra", "word", "<|user|>", "<|assistant|>\n", "<|eos|>", "[INST]", "\u200b", "fin 1",
         "\u202e", "<<", ">>", "<|us", "er|>", "\n\n", "¿sí?", "日本", "🙂", "</s>", "[1]"]
    ),
    max_size=60,
).map(" ".join)  # fmt: skip


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(SEMILLA, local_files_only=True)


def specials(ids: tuple[int, ...]) -> list[int]:
    marks = set(tokenizer().all_special_ids)
    return [id for id in ids if id in marks]


@settings(max_examples=120, deadline=None)
@given(
    question=TEXT,
    texts=st.lists(TEXT, max_size=6),
    turns=st.lists(TEXT, max_size=6),
    notes=st.lists(TEXT, max_size=3),
    window=st.integers(300, 1024),
    max_new=st.integers(1, 2000),
)
def test_a_prompt_fits_holds_whole_sources_and_the_question(
    question: str, texts: list[str], turns: list[str], notes: list[str], window: int, max_new: int
) -> None:
    builder = PromptBuilder(tokenizer(), window)
    said = [Said("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(turns)]
    passages = [passage(text, title=text[:40]) for text in texts]
    request = Request(question, "es", passages, said, notes)
    prompt = builder.build(request, max_new_tokens=max_new)
    code = prompt.code
    assert len(prompt.ids) <= prompt.budget == max(window - max_new - 64, window // 4)
    assert list(prompt.sources) == sorted(set(prompt.sources))
    bodies = re.findall(rf"<<fuente \d+ {code}>>\n\[\d+\] [^\n]*\n(.*?)<<fin \d+ {code}>>",
                        prompt.text, re.DOTALL)  # fmt: skip
    assert len(bodies) == len(prompt.sources)
    marks = (*tokenizer().all_special_tokens, code)
    for body, index in zip(bodies, prompt.sources, strict=True):
        assert body.strip() == clean(texts[index], marks).strip()
    asked = clean(question, marks).strip()
    alone = builder.build(Request(asked, "es"), max_new_tokens=max_new)
    if asked in alone.text:
        assert prompt.text.rstrip().removesuffix("<|assistant|>").rstrip().endswith(asked)
    if not prompt.sources:
        longest = [builder.build(Request(question, "es", [p]), max_new_tokens=max_new)
                   for p in passages]  # fmt: skip
        # codes differ, and so may their tokens: what stays out only just fits, if at all
        assert not any(one.sources and len(one.ids) + 24 <= one.budget for one in longest)


@pytest.mark.security
@settings(max_examples=80, deadline=None)
@given(text=TEXT, title=TEXT, question=TEXT)
def test_h23_no_text_makes_a_mark_of_the_template(text: str, title: str, question: str) -> None:
    builder = PromptBuilder(tokenizer(), 1024)
    one = passage(text, title=title)
    prompt = builder.build(Request(question, "en", [one]), max_new_tokens=1)
    plain = builder.build(Request("x", "en", [passage("y")]), max_new_tokens=1)
    if prompt.text.startswith(plain.text[:20]):  # the system's turn fits in both
        assert specials(prompt.ids) == specials(plain.ids)
    system = prompt.text.partition("<|user|>")[0]
    assert system in ("<|bos|>", plain.text.partition("<|user|>")[0])
