"""Several adapters on one base: each voice writes its own text, whoever writes beside it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.format import AdapterSpec, Arrays
from federation.adapter.parts import at_rank
from federation.model import adapted
from federation.model.choose import BaseChoice
from federation.model.load import Loaded, load_base
from federation.model.speak import Sampling, speak
from federation.model.voices import Turns, Voice, Voices
from tests.tiny_model import make_tiny_llama

GREEDY = Sampling(max_new_tokens=20, temperature=0, repetition_penalty=1.0)
PROMPT = [5, 6, 7, 8]
WAIT_S = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("llama"))


def load(folder: Path) -> Loaded:
    return load_base(BaseChoice("tiny", folder, None, "0" * 64), device="cpu")


def drawn(spec: AdapterSpec, seed: int) -> Arrays:
    draw = np.random.default_rng(seed)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in spec.shapes.items()}


def tokens_with(folder: Path, seed: int) -> list[int]:
    """What the model writes with that adapter alone, attached as training does; 0 is none."""
    loaded = load(folder)
    spec = adapted.spec_of(loaded, rank=2, alpha=4)
    if seed:
        adapted.attach(loaded, spec, drawn(spec, seed), trainable=False)
    return [piece.token for piece in speak(loaded, PROMPT, GREEDY)]


def said(voice: Voice) -> Iterator[int]:
    for piece in voice.write(PROMPT, GREEDY, lambda: False):
        yield piece.token


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_voices_written_in_turn_say_what_each_says_alone(folder: Path) -> None:
    alone = {seed: tokens_with(folder, seed) for seed in (0, 1, 2)}
    assert len({tuple(written) for written in alone.values()}) == 3
    voices = Voices(load(folder))
    spec = adapted.spec_of(voices.loaded, rank=2, alpha=4)
    made = [voices.base, *(voices.add(f"a{n}", spec, drawn(spec, n)) for n in (1, 2))]
    columns = zip(*zip_longest(*map(said, made)), strict=True)
    assert [[token for token in column if token is not None] for column in columns] == [
        alone[0], alone[1], alone[2]]  # fmt: skip


def test_a_voice_with_a_base_delta_speaks_as_when_both_are_attached(folder: Path) -> None:
    loaded = load(folder)
    spec = adapted.spec_of(loaded, rank=2, alpha=4)
    base = drawn(at_rank(spec, 1), 7)
    adapted.attach(loaded, spec, drawn(spec, 1), trainable=False, base=base)
    whole = [piece.token for piece in speak(loaded, PROMPT, GREEDY)]
    voices = Voices(load(folder))
    bare = list(said(voices.base))
    plain = voices.add("plain", spec, drawn(spec, 1))
    raised = voices.add("raised", spec, drawn(spec, 1), base)
    assert list(said(raised)) == whole
    assert list(said(plain)) == tokens_with(folder, 1) != whole
    del plain, raised
    gc.collect()
    voices.sweep()
    assert voices.names() == []
    assert list(said(voices.base)) == bare


def test_an_adapter_stays_on_while_its_voice_is_held_and_goes_afterwards(folder: Path) -> None:
    voices = Voices(load(folder))
    spec = adapted.spec_of(voices.loaded, rank=2, alpha=4)
    bare = list(said(voices.base))
    old = voices.add("old", spec, drawn(spec, 1))
    assert voices.add("old", spec, drawn(spec, 1)) is old
    whole = list(said(old))
    writing = said(old)
    begun = [next(writing)]
    new = voices.add("new", spec, drawn(spec, 2))
    del old
    voices.sweep()
    assert voices.names() == ["old", "new"]  # an answer is being written with it
    assert [*begun, *writing] == whole
    del writing
    gc.collect()
    other = list(said(new))
    voices.sweep()
    assert voices.names() == ["new"]
    assert list(said(new)) == other != whole
    del new
    gc.collect()
    voices.sweep()
    assert voices.names() == []
    assert voices.loaded.adapted is None
    assert list(said(voices.base)) == bare


def test_an_adapter_that_does_not_fit_changes_nothing(folder: Path) -> None:
    voices = Voices(load(folder))
    spec = adapted.spec_of(voices.loaded, rank=2, alpha=4)
    voice = voices.add("good", spec, drawn(spec, 1))
    before = list(said(voice))
    broken = {**drawn(spec, 2), next(iter(spec.shapes)): np.float32([[np.nan]])}
    with pytest.raises(Exception, match="lora"):
        voices.add("bad", spec, broken)
    assert voices.names() == ["good"]
    assert list(said(voice)) == before


def test_turns_of_one_name_are_together_and_others_wait_in_the_order_they_came() -> None:
    chosen: list[str] = []
    turns = Turns(chosen.append)
    order: list[str] = []
    inside, leave = threading.Semaphore(0), threading.Event()

    def compute(who: str, name: str) -> None:
        with turns.of(name):
            order.append(who)
            inside.release()
            leave.wait(WAIT_S)

    threads = [threading.Thread(target=compute, args=("a1", "a"))]
    threads[0].start()
    assert inside.acquire(timeout=WAIT_S)
    for who, name in (("a2", "a"), ("b", "b"), ("a3", "a")):
        waiting = len(turns._queue)
        threads.append(threading.Thread(target=compute, args=(who, name)))
        threads[-1].start()
        if who == "a2":
            assert inside.acquire(timeout=WAIT_S)  # beside the first
        else:
            until(lambda: len(turns._queue) > waiting)  # noqa: B023 - called at once
    assert order == ["a1", "a2"]
    leave.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["a1", "a2", "b", "a3"]  # the third of a does not pass b
    assert chosen == ["a", "b", "a"]


def test_who_changes_the_model_is_alone_and_the_next_one_chooses_again() -> None:
    chosen: list[str] = []
    turns = Turns(chosen.append)
    with turns.of("a"):
        pass
    busy: list[int] = []
    with turns.alone():
        thread = threading.Thread(target=lambda: [busy.append(1) for _ in turns_of(turns)])
        thread.start()
        until(lambda: len(turns._queue) == 1)
        assert busy == []
    thread.join(WAIT_S)
    assert busy == [1]
    assert chosen == ["a", "a"]


def turns_of(turns: Turns) -> Iterator[None]:
    with turns.of("a"):
        yield


def test_a_choice_that_fails_lets_the_next_one_in() -> None:
    def choose(name: str) -> None:
        if name == "bad":
            raise RuntimeError(name)

    turns = Turns(choose)
    with pytest.raises(RuntimeError), turns.of("bad"):
        pass
    with turns.of("good"):
        pass
