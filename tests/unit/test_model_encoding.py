"""Documents as token ids: what is predicted, windows, packing, batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from federation.model.documents import Document, fingerprint
from federation.model.encoding import (
    IGNORED,
    Encoded,
    by_length,
    collate,
    encode,
    fit,
    pack,
    positions,
    windows,
)
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_tiny_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_tiny_gpt2(tmp_path_factory.mktemp("gpt2")))


def numbers(count: int, start: int = 1) -> Encoded:
    return Encoded(np.arange(count, dtype=np.int64), start)


def test_a_pair_is_the_chat_template_with_only_answer_and_eos_to_predict(chat: Any) -> None:
    encoded = encode(chat, Document(question="Why?", answer="Because it is."))
    turns = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because it is."},
    ]
    whole = chat.apply_chat_template(turns, tokenize=False)
    ids = chat(whole, add_special_tokens=False)["input_ids"]
    assert encoded.ids.tolist() == ids
    learnt = chat.decode(encoded.ids[encoded.start :])
    assert learnt == "Because it is.<|eos|>"


def test_without_a_chat_template_a_pair_has_a_plain_form_and_eos(plain: Any) -> None:
    encoded = encode(plain, Document(question="Why?", answer="So."))
    assert plain.decode(encoded.ids[: encoded.start]) == "Question: Why?\nAnswer: "
    assert plain.decode(encoded.ids[encoded.start :]) == "So.<|eos|>"


def test_every_token_of_a_text_is_predicted_and_eos_once(chat: Any, plain: Any) -> None:
    for tokenizer in (chat, plain):
        encoded = encode(tokenizer, Document(text="La luna."))
        learnt = encoded.ids[encoded.start :]
        assert tokenizer.decode(learnt) == "La luna.<|eos|>"
        assert encoded.ids[0] in (1, EOS)


@given(length=st.integers(2, 60), start=st.integers(1, 60), limit=st.integers(1, 20))
def test_windows_hold_each_target_exactly_once(length: int, start: int, limit: int) -> None:
    whole = numbers(length, min(start, length - 1))
    pieces = windows(whole, limit)
    assert [i for piece in pieces for i in piece.ids[piece.start :]] == list(
        range(whole.start, length)
    )
    assert all(len(piece.ids) - 1 <= limit and piece.start >= 1 for piece in pieces)


@given(prompt=st.integers(1, 40), answer=st.integers(1, 40), limit=st.integers(2, 30))
def test_fitting_keeps_the_end_of_the_prompt_and_the_start_of_the_answer(
    prompt: int, answer: int, limit: int
) -> None:
    short = fit(numbers(prompt + answer, prompt), limit)
    ids = short.ids.tolist()
    assert len(ids) <= limit + 1
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert ids[short.start] == prompt
    if prompt + answer <= limit + 1:
        assert len(ids) == prompt + answer


@pytest.mark.parametrize("before", [[EOS], []])
def test_packing_fills_every_window_but_the_last(before: list[int]) -> None:
    streams = [np.asarray([*range(10, 10 + n), EOS], dtype=np.int64) for n in (3, 9, 5, 1)]
    pieces = pack(streams, before=before, max_tokens=4)
    assert [len(piece.ids) - 1 for piece in pieces][:-1] == [4] * (len(pieces) - 1)
    learnt = [int(i) for piece in pieces for i in piece.ids[piece.start :]]
    whole = [*before, *(int(i) for stream in streams for i in stream)]
    assert learnt == whole[1:]


def test_packed_documents_are_told_apart() -> None:
    streams = [np.asarray([BOS, *range(10, 10 + n), EOS], dtype=np.int64) for n in (2, 1, 3)]
    own_bos = pack(streams, before=[], max_tokens=100)[0]
    assert own_bos.segments() == [4, 3, 4]
    assert [own_bos.ids[at] for at in (0, *own_bos.breaks)] == [BOS] * 3
    after_eos = pack([stream[1:] for stream in streams], before=[EOS], max_tokens=100)[0]
    assert after_eos.segments() == [3, 2, 4]
    assert [after_eos.ids[at] for at in (0, *after_eos.breaks)] == [EOS] * 3


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 9))
def test_segments_of_all_windows_add_up_to_their_inputs(lengths: list[int], limit: int) -> None:
    streams = [np.asarray([*range(n), EOS], dtype=np.int64) for n in lengths]
    for piece in pack(streams, before=[EOS], max_tokens=limit):
        assert sum(piece.segments()) == len(piece.ids) - 1
        assert min(piece.segments()) >= 1
        counted = [n for length in piece.segments() for n in range(length)]
        assert positions([piece]).tolist() == [counted]


def test_collating_pads_on_the_right_and_ignores_padding_and_prompt() -> None:
    inputs, targets = collate([numbers(5, 3), numbers(3, 1)], pad=99)
    assert inputs.tolist() == [[0, 1, 2, 3], [0, 1, 99, 99]]
    assert targets.tolist() == [[IGNORED, IGNORED, 3, 4], [1, 2, IGNORED, IGNORED]]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 100))
def test_batches_by_length_hold_each_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = by_length(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget


def test_a_documents_digest_depends_on_its_content_alone() -> None:
    assert Document(text="a", id="1", lang="es").digest == Document(text="a").digest
    assert Document(text="a").digest != Document(question="", answer="a").digest
    assert fingerprint([Document(text="a"), Document(text="b")]) != fingerprint(
        [Document(text="b"), Document(text="a")]
    )
