"""Writing token by token: what transformers would write, sampling that acts, stopping."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federation.errors import ModelError
from federation.model import adapted
from federation.model.choose import BaseChoice
from federation.model.load import Loaded, load_base
from federation.model.speak import Sampling, size_of, speak, window_of
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama

GREEDY = Sampling(max_new_tokens=24, temperature=0, repetition_penalty=1.0)
FREE = Sampling(max_new_tokens=24, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(make_tiny_llama(tmp_path_factory.mktemp("llama")))


def load(folder: Path) -> Loaded:
    return load_base(BaseChoice("tiny", folder, None, "0" * 64), device="cpu")


def ids(loaded: Loaded, text: str = "La luna gira") -> list[int]:
    found: list[int] = loaded.tokenizer(text)["input_ids"]
    return found


def tokens(loaded: Loaded, sampling: Sampling, text: str = "La luna gira") -> list[int]:
    return [piece.token for piece in speak(loaded, ids(loaded, text), sampling)]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("make", [make_tiny_llama, make_tiny_gpt2])
def test_the_likeliest_tokens_are_those_of_transformers(
    tmp_path: Path, make: Any, penalty: float
) -> None:
    loaded = load(make(tmp_path / "model"))
    prompt = ids(loaded)
    expected = loaded.model.generate(
        torch.tensor([prompt]),
        do_sample=False,
        max_new_tokens=24,
        repetition_penalty=penalty,
        eos_token_id=loaded.tokenizer.all_special_ids,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    written = tokens(loaded, replace(GREEDY, repetition_penalty=penalty))
    assert written == [id for id in expected if id not in loaded.tokenizer.all_special_ids]
    assert written


def test_a_seed_repeats_itself_and_another_one_does_not(tiny: Loaded) -> None:
    assert tokens(tiny, FREE) == tokens(tiny, FREE)
    assert tokens(tiny, FREE) != tokens(tiny, replace(FREE, seed=1))


def test_nobody_elses_draws_change_an_answer(tiny: Loaded) -> None:
    alone = [tokens(tiny, replace(FREE, seed=seed)) for seed in (3, 4)]
    torch.manual_seed(99)
    two = [speak(tiny, ids(tiny), replace(FREE, seed=seed)) for seed in (3, 4)]
    together: list[list[int]] = [[], []]
    for pair in zip_longest(*two):
        torch.rand(1)
        for written, piece in zip(together, pair, strict=True):
            if piece is not None:
                written.append(piece.token)
    assert together == alone


@pytest.mark.parametrize("change", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_each_bound_alone_leads_to_the_likeliest(tiny: Loaded, change: dict[str, float]) -> None:
    assert tokens(tiny, replace(FREE, **change)) == tokens(tiny, GREEDY)


def test_temperature_changes_the_distribution(tiny: Loaded) -> None:
    def spread(temperature: float) -> int:
        runs = (replace(FREE, seed=n, temperature=temperature, max_new_tokens=1) for n in range(60))
        return len({tuple(tokens(tiny, sampling)) for sampling in runs})

    assert spread(0.2) < spread(1.0) < spread(3.0)


def test_top_k_draws_from_so_many(tiny: Loaded) -> None:
    runs = (replace(FREE, seed=n, temperature=9.0, top_k=3, max_new_tokens=1) for n in range(60))
    assert len({tuple(tokens(tiny, sampling)) for sampling in runs} - {()}) <= 3


def test_a_penalty_repeats_less(tiny: Loaded) -> None:
    plain = tokens(tiny, GREEDY)
    bent = tokens(tiny, replace(GREEDY, repetition_penalty=1.5))
    assert len(set(bent)) / len(bent) > len(set(plain)) / len(plain)


def test_no_more_than_asked_for_and_than_fits(tiny: Loaded) -> None:
    endless = replace(FREE, max_new_tokens=10_000, temperature=3.0)
    assert len(tokens(tiny, replace(FREE, max_new_tokens=3))) <= 3
    prompt = ids(tiny) * 40
    prompt = prompt[: window_of(tiny) - 2]
    assert len(list(speak(tiny, prompt, endless))) <= 2
    with pytest.raises(ModelError, match="does not fit"):
        next(speak(tiny, [5] * window_of(tiny), FREE))


def test_it_stops_where_it_is_told_to(tiny: Loaded) -> None:
    asked: list[int] = []
    stop_at = 4
    written = list(
        speak(tiny, ids(tiny), GREEDY, is_stopped=lambda: asked.append(1) or len(asked) > stop_at)
    )
    assert len(written) == stop_at
    stopped = speak(tiny, ids(tiny), GREEDY)
    assert len(list(islice(stopped, 2))) == 2
    stopped.close()  # type: ignore[attr-defined]  # a generator


def test_pieces_are_whole_characters_and_make_the_whole_text(tiny: Loaded) -> None:
    for seed in range(5):
        pieces = list(speak(tiny, ids(tiny), replace(FREE, seed=seed, temperature=2.0)))
        whole = tiny.tokenizer.decode([p.token for p in pieces], skip_special_tokens=True)
        text = "".join(piece.text for piece in pieces)
        assert whole.startswith(text)
        assert whole[len(text) :].strip("\ufffd") == ""


def test_figures_are_those_of_the_model(tiny: Loaded) -> None:
    (piece,) = speak(tiny, ids(tiny), replace(GREEDY, max_new_tokens=1))
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([ids(tiny)])).logits[0, -1]
    chances = torch.softmax(logits, -1)
    assert piece.logprob == pytest.approx(float(chances[piece.token].log()), abs=1e-5)
    assert piece.entropy == pytest.approx(float(-(chances * chances.log()).sum()), abs=1e-4)


def test_an_attached_adapter_writes(tmp_path: Path) -> None:
    loaded = load(make_tiny_llama(tmp_path / "model"))
    before = tokens(loaded, GREEDY)
    spec = adapted.spec_of(loaded, rank=2, alpha=8)
    draw = np.random.default_rng(1)
    arrays = {
        name: draw.normal(size=shape).astype(np.float32) for name, shape in spec.shapes.items()
    }
    adapted.attach(loaded, spec, arrays, trainable=False)
    assert tokens(loaded, GREEDY) != before
    adapted.detach(loaded)
    assert tokens(loaded, GREEDY) == before


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
     {"repetition_penalty": 0.5}, {"temperature": float("nan")}],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        replace(FREE, **wrong)


def test_size_and_window_are_the_models(tiny: Loaded) -> None:
    assert window_of(tiny) == 256
    assert size_of(tiny) == sum(p.numel() for p in tiny.model.parameters())
