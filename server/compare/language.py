"""A language model as the task of a comparison: clients with texts, losses on held-out texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.tensors import Arrays, load_arrays, save_tensors
from federation.errors import ConfigError
from federation.model.documents import Document, fingerprint
from server.compare.players import Players, starts_of
from server.compare.workers import Asking
from strategies.compare.attacks import parse
from strategies.compare.federate import Job, Measured
from strategies.compare.partitions import share_out
from strategies.compare.setting import Setting

F32 = npt.NDArray[np.float32]
HELD_OUT_EVERY = 5  # of each field and language, by hash
MAX_HELD_OUT = 64
MEASURED_TOGETHER = 16  # documents a player measures at a time
Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Texts:
    """What clients share, and what none of them sees."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @property
    def sha256(self) -> str:
        """Hash of both, in their order."""
        return fingerprint((*self.train, Document(text="held out"), *self.held_out))


def split(documents: Sequence[Document], *, most: int = MAX_HELD_OUT) -> Texts:
    """Hold out every fifth document of each field and language, in the order of their hashes.

    Raises:
        ConfigError: too few documents.
    """
    ordered = sorted({each.digest: each for each in documents}.values(), key=lambda e: e.digest)
    counted: dict[tuple[str, str], int] = {}
    train: list[Document] = []
    held_out: list[Document] = []
    for each in ordered:
        place = each.lang, each.field
        counted[place] = counted.get(place, 0) + 1
        (train if counted[place] % HELD_OUT_EVERY else held_out).append(each)
    if not train or not held_out:
        raise ConfigError(f"{len(ordered)} documents are too few: nothing could be held out")
    return Texts(tuple(train), tuple(held_out[:: -(-len(held_out) // most)]))


class FirstRounds:
    """What clients learnt in the first round of a seed, where many arms do the same work.

    All begin with the same adapter on the same base; those that train the same factors at the same
    rate need it once. Only the last seed and partition are kept.
    """

    def __init__(self) -> None:
        self._of: tuple[int, str] = (-1, "")
        self._trained: dict[str, bytes] = {}

    def of(self, setting: Setting) -> dict[str, bytes]:
        """Return name of the work -> trained adapter; the caller adds to it."""
        now = setting.seed, setting.partition
        if now != self._of:
            self._of, self._trained = now, {}
        return self._trained


class LanguageTask:
    """Clients of one cell on the players' base model (a `federate.Task`); a context manager.

    Args:
        players: of the clients; used by nobody else meanwhile.
        texts: shared out by the setting's partition and seed.
        setting: of the cell.
        first: shared by the cells of a study; None: nothing is kept.
    """

    def __init__(
        self, players: Players, texts: Texts, setting: Setting, first: FirstRounds | None = None
    ) -> None:
        self._players, self._texts, self._setting = players, texts, setting
        self._first = (first or FirstRounds()).of(setting)
        self._spec = AdapterSpec.from_json(players.opened["spec"])
        fields = [each.field or each.lang for each in texts.train]
        languages = [each.lang for each in texts.train]
        shares = share_out(setting.partition, fields, languages, setting.clients, setting.seed)
        hostile = parse(setting.attack)
        liars = hostile.hostile(setting.clients, setting.seed) if hostile.kind == "flip" else ()
        self._shares = [
            [asdict(spoilt(each) if k in liars else each) for each in _at(texts.train, share)]
            for k, share in enumerate(shares)
        ]

    def __enter__(self) -> LanguageTask:
        self._players.reset_base()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to end: the next cell gives the base its own weights back."""

    @property
    def spec(self) -> AdapterSpec:
        """All linear layers of the base."""
        return self._spec

    def initial(self) -> Arrays:
        """As version 0 of a server with this seed."""
        return initial_arrays(self._spec, self._setting.seed)

    def examples(self, client: int) -> int:
        """How many documents it has."""
        return len(self._shares[client])

    def train(self, jobs: Sequence[Job]) -> Iterator[Arrays]:
        """Train side by side; what was trained before is not trained again."""
        blobs, setting = starts_of(jobs), self._setting
        tasks: list[Asking] = []
        names: list[str] = []
        for job in jobs:
            blob = blobs[id(job.start)]
            plan = {"learning_rate": setting.lr, "batch_size": setting.batch}
            plan |= {"max_seq_len": setting.tokens, "seed": _seed(setting.seed, job.client)}
            plan |= {"proximal_mu": setting.proximal_mu}
            values = {"documents": self._shares[job.client], "plan": plan, "round": job.number}
            values |= {"steps": setting.steps, "trains": "".join(sorted(job.trains))}
            tasks.append(("train", blob, values))
            names.append(_name(blob, values) if job.number == 1 else "")
        known = dict(self._first)
        wanted = [task for name, task in zip(names, tasks, strict=True) if name not in known]
        answers = self._players.each(wanted)
        for name in names:
            trained = known[name] if name in known else next(answers)[1]
            if name:
                self._first[name] = trained
            yield load_arrays(trained)

    def measure(self, adapters: Sequence[Mapping[str, F32]]) -> Measured:
        """Nats per token over all held-out texts, and field by field; the mean of adapters."""
        documents = [asdict(each) for each in self._texts.held_out]
        parts = range(0, len(documents), MEASURED_TOGETHER)
        tasks: list[Asking] = []
        for adapter in adapters:
            blob = save_tensors(adapter)
            for begin in parts:
                chosen = documents[begin : begin + MEASURED_TOGETHER]
                values = {"documents": chosen, "max_tokens": 4 * self._setting.tokens}
                tasks.append(("measure", blob, values))
        losses = np.concatenate([content["losses"] for content, _ in self._players.each(tasks)])
        losses = losses.reshape(len(adapters), len(documents), 2).sum(axis=0)
        fields: dict[str, list[int]] = {}
        for at, each in enumerate(self._texts.held_out):
            fields.setdefault(f"{each.lang} {each.field}".strip() or "all", []).append(at)
        named = {name: _rate(losses[places]) for name, places in sorted(fields.items())}
        return Measured(_rate(losses), named)

    def add_base(self, delta: Arrays) -> None:
        """Add to everybody's base."""
        self._players.add_base(save_tensors(delta))

    def facts(self) -> dict[str, str]:
        """Base, data, and who has what in which order."""
        order = hashlib.sha256()
        for share in self._shares:
            order.update(fingerprint(Document(**each) for each in share).encode())
        return {
            "base": self._spec.base_hash,
            "data": self._texts.sha256,
            "order": order.hexdigest(),
        }


def spoilt(document: Document) -> Document:
    """The same words in reverse: fluent in nothing, as long as before."""
    return Document(
        text=" ".join(reversed(document.text.split())),
        question=document.question,
        answer=" ".join(reversed(document.answer.split())),
        lang=document.lang,
        field=document.field,
    )


def _at(documents: Sequence[Document], places: Sequence[int]) -> list[Document]:
    return [documents[place] for place in places]


def _seed(seed: int, client: int) -> int:
    """Of a client's order of batches: the same under every strategy."""
    return 1_000 * seed + client


def _rate(losses: npt.NDArray[np.float64]) -> float:
    nats, tokens = losses.sum(axis=0)
    return float(nats / tokens)


def _name(blob: bytes, values: Mapping[str, Any]) -> str:
    content = json.dumps(values, sort_keys=True).encode()
    return hashlib.sha256(hashlib.sha256(blob).digest() + content).hexdigest()
