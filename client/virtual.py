"""One process that plays many nodes: it trains and measures whatever adapter it is handed.

`python -m client.virtual` answers frames on stdin (`federation.frames`) until stdin ends. The base
model is loaded once; optimiser, batches and schedule are those of a real node's training. It keeps
nothing on disk, packages nothing and knows no server.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from client.batches import Corpus, epoch_steps, prepare, steps_per_epoch
from client.dataset import load_dataset
from client.rows import parse_row, to_document
from client.training_plan import Start, TrainingPlan, learning_rate_at
from federation.adapter.format import A, AdapterSpec
from federation.adapter.instructions import Instructions
from federation.adapter.parts import at_rank
from federation.adapter.tensors import Arrays, load_arrays, save_tensors
from federation.errors import ConscienceError
from federation.frames import read_frame, write_frame
from federation.model.documents import Document, fingerprint
from federation.model.encoding import Encoded

if TYPE_CHECKING:
    from client.learner import Learner

KEPT_CORPORA = 64
Answer = tuple[dict[str, Any], bytes]


class VirtualNodes:
    """A base model, and what was last asked of it."""

    def __init__(self) -> None:
        self._corpora: dict[str, Corpus] = {}
        self._learner: Learner | None = None  # of the last client, its adapter still on the base

    def answer(self, asked: Mapping[str, Any], blob: bytes) -> Answer:
        """Do what a frame asks for."""
        known = {"open": self.open, "train": self.train, "measure": self.measure, "base": self.base}
        return known[str(asked["do"])](asked, blob)

    def open(self, asked: Mapping[str, Any], _: bytes) -> Answer:
        """Load exactly the base model asked for; its adapters' spec, and the documents of `data`.

        Without `data` they are the starter texts.
        """
        files = [Path(name) for name in asked["data"]]
        documents = from_files(files) if files else starter()
        from federation.model import adapted
        from federation.model.choose import BaseChoice, candidates, folder_of, identity, locate
        from federation.model.grounded import Ground
        from federation.model.load import load_base

        found = locate(candidates(str(asked["model"]), Path(asked["search"]))[0])
        place = folder_of(found)
        choice = BaseChoice(found.ref, place, found.revision, identity(place))
        self._loaded = load_base(choice, device="cpu")
        self._ground = Ground(self._loaded)
        self._spec = adapted.spec_of(
            self._loaded, rank=int(asked["rank"]), alpha=float(asked["alpha"])
        )
        rows = [asdict(each) for each in documents]
        return {"spec": self._spec.to_json(), "documents": rows}, b""

    def train(self, asked: Mapping[str, Any], blob: bytes) -> Answer:
        """Train one client's adapter for the steps of one round, exactly as many as asked for."""
        start, plan = load_arrays(blob), TrainingPlan(**asked["plan"])
        corpus, steps = self._corpus(asked["documents"], plan.max_seq_len), int(asked["steps"])
        asks = Instructions(trains=asked["trains"])
        begin = Start(self._spec_of(start), start, instructions=asks)
        learner, skipped = self._learner_of(begin, plan), (int(asked["round"]) - 1) * steps
        with learner.learning():
            for number, pieces in enumerate(batches(corpus, plan, skipped, steps), start=1):
                learner.step(pieces, number, learning_rate_at(plan, number, steps))
        return {}, save_tensors(learner.arrays())

    def measure(self, asked: Mapping[str, Any], blob: bytes) -> Answer:
        """Losses of documents under an adapter: nats and tokens of each."""
        from federation.model.loss import document_losses

        losses = document_losses(
            self._model_with(load_arrays(blob)),
            self._loaded.tokenizer,
            _documents(asked["documents"]),
            max_tokens=int(asked["max_tokens"]),
        )
        return {"losses": losses.tolist()}, b""

    def base(self, _: Mapping[str, Any], blob: bytes) -> Answer:
        """Add a delta to the base; without one, give the base its own weights back."""
        self._take_off()
        if blob:
            self._ground.add(load_arrays(blob))
        else:
            self._ground.reset()
        return {}, b""

    def _learner_of(self, start: Start, plan: TrainingPlan) -> Learner:
        """The last client's learner, begun anew where it may be: most of a short training."""
        from client.learner import Learner

        learner = self._at_hand()
        if learner is not None and learner.fits(start, plan):
            learner.begin(start, plan)
        else:
            learner = Learner(self._loaded, start, plan, before_batch=_nothing, tell=_nothing)
        self._learner = learner
        return learner

    def _model_with(self, arrays: Arrays) -> Any:  # noqa: ANN401 - a PeftModel
        """The base with an adapter on it, to be measured."""
        from federation.model import adapted

        spec, learner = self._spec_of(arrays), self._at_hand()
        if learner is not None and learner.spec == spec:
            learner.put(arrays)
            return learner.model
        return adapted.attach(self._loaded, spec, arrays, trainable=False)

    def _at_hand(self) -> Learner | None:
        """The last client's learner, if its adapter is still the one on the base."""
        is_on = self._learner is not None and self._loaded.adapted is self._learner.model
        return self._learner if is_on else None

    def _take_off(self) -> None:
        from federation.model import adapted

        self._learner = None
        adapted.detach(self._loaded)

    def _spec_of(self, arrays: Arrays) -> AdapterSpec:
        """The adapter's spec, at the rank of `arrays`."""
        first = next(name for name in self._spec.shapes if name.endswith(A))
        return at_rank(self._spec, len(arrays[first]))

    def _corpus(self, rows: Sequence[Mapping[str, str]], max_tokens: int) -> Corpus:
        documents = _documents(rows)
        key = f"{fingerprint(documents)} {max_tokens}"
        if key not in self._corpora:
            while len(self._corpora) >= KEPT_CORPORA:
                self._corpora.pop(next(iter(self._corpora)))
            self._corpora[key] = prepare(self._loaded.tokenizer, documents, max_tokens)
        return self._corpora[key]


def batches(
    corpus: Corpus, plan: TrainingPlan, skipped: int, steps: int
) -> Iterator[list[Encoded]]:
    """Batches `skipped` … `skipped + steps` of an endless row of epochs: a pure function."""

    def endless() -> Iterator[list[Encoded]]:
        epoch = skipped // per_epoch
        while True:
            yield from epoch_steps(corpus, plan.batch_size, seed=plan.seed, epoch=epoch)
            epoch += 1

    per_epoch = steps_per_epoch(corpus, plan.batch_size)
    begin = skipped % per_epoch
    return islice(endless(), begin, begin + steps)


def starter() -> list[Document]:
    """The texts and questions that ship with a node, by file."""
    folder = resources.files("client") / "starter"
    lines = [
        line
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.name.endswith(".jsonl")
        for line in item.read_bytes().split(b"\n")
        if line.strip()
    ]
    return [to_document(parse_row(line)) for line in lines]


def from_files(files: Sequence[Path]) -> list[Document]:
    """Documents of files, as a node reads them; none is held out here.

    Raises:
        UsageError: a file does not exist.
        NoDataError: no usable row.
    """
    found = load_dataset(files, day="")
    return [*found.train, *found.heldout]


def serve(asking: IO[bytes], answering: IO[bytes]) -> None:
    """Answer frames until there are no more; a known error is an answer too."""
    nodes = VirtualNodes()
    while (frame := read_frame(asking)) is not None:
        try:
            content, blob = nodes.answer(*frame)
        except ConscienceError as err:
            content, blob = err.to_json(), b""
        write_frame(answering, content, blob)


def main() -> None:
    """Serve on stdin and stdout; what libraries print goes to stderr."""
    answering = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is told; then stdin ends
    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answering)


def _documents(rows: Sequence[Mapping[str, str]]) -> list[Document]:
    return [Document(**row) for row in rows]


def _nothing(_: object) -> None:
    """Tell nobody."""


if __name__ == "__main__":
    main()
