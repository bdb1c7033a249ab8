"""`flower-client verify-chat`: the shipped questions put to the chat; one step back if it fails.

Quoted answers hardly change with an adapter, so the model is asked too: how likely it finds right
answers in plain words, with its adapter and without. Asked is what the page would answer with: the
version that its settings choose, else the newest. An adapter that came since the last check and
fails where the one before it passes is refused for the chat (`client.chat_adapter`); a running
chat follows. Training and what the operator is told do not change by it.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.chat_adapter import load_verdicts, note_verdict, store_of
from client.chat_model import NodeModel, NodeWriter
from client.chat_settings import pin_of, settings_of
from client.config import NodeConfig, NodeHome
from client.knowledge import open_model
from client.library import NodeSearch, bound_blas
from federation import durable
from federation.errors import AdapterError
from federation.language import _, language
from federation.model.documents import Document
from federation.model.voices import Voice
from rag.answer.abstain import START
from rag.answer.events import Question
from rag.answer.respond import Responder
from rag.answer.result import ModelName
from rag.corpus_rows import to_line
from rag.verification import judge, prompts
from rag.verification.prompts import Prompt

if TYPE_CHECKING:
    from client.adapters import AdapterStore, Global

logger = logging.getLogger(__name__)

MOST_PERPLEXITY = 1.2  # of right answers, as a multiple of the base model's
_Check = Callable[[NodeWriter | None], "Report"]
LATEST, HISTORY = "verification.json", "verification.jsonl"


@dataclass(frozen=True)
class Row:
    """One thing that was checked; `faults` is empty if it passed."""

    id: str
    kind: str
    language: str
    faults: tuple[str, ...] = ()
    detail: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether it did."""
        return not self.faults


@dataclass(frozen=True)
class Report:
    """All that was checked with one adapter."""

    model: ModelName
    rows: tuple[Row, ...]
    seconds: float

    @property
    def has_passed(self) -> bool:
        """Whether everything did."""
        return all(row.has_passed for row in self.rows)

    def reason(self) -> str:
        """What failed, for a verdict."""
        failed = [f"{row.id}: {row.faults[0]}" for row in self.rows if row.faults]
        return "; ".join(failed[:3]) + (f" (+{len(failed) - 3})" if len(failed) > 3 else "")


@dataclass(frozen=True)
class Outcome:
    """What `verify` found, and did.

    Attributes:
        report: of what answered when it began.
        refused: the adapter that was gone back from now, "" if none was.
        note: a sentence for the owner.
        prompts_sha256: of the prompts.
    """

    report: Report
    prompts_sha256: str
    refused: str = ""
    note: str = ""

    @property
    def has_passed(self) -> bool:
        """Whether the morning can begin with no eyes on it."""
        return self.report.has_passed and not self.refused

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {
            "format": 1,
            "at": now,
            "passed": self.has_passed,
            "refused": self.refused,
            "note": self.note,
            "prompts_sha256": self.prompts_sha256,
            **asdict(self.report),
        }


@contextmanager
def mini_corpus() -> Iterator[NodeSearch]:
    """The search over the shipped texts for the length of a block: words alone, always the same."""
    bound_blas()
    from rag.retrieval.library import Library

    with tempfile.TemporaryDirectory(prefix="verification-") as name:
        folder = Path(name)
        lines = [to_line(document) for document in prompts.corpus()]
        durable.write_text(folder / "corpus.jsonl", "\n".join(lines) + "\n")
        with Library(folder / "corpus.jsonl", folder / "rag", embedder="none") as library:
            library.follow()
            yield NodeSearch(library)


def verify(home: NodeHome, config: NodeConfig) -> Outcome:
    """Ask everything; if what came since the last check broke something, go one step back."""
    sets = prompts.shipped()
    asked = [prompt for each in sets for prompt in each.prompts]
    model, pin = open_model(home, config), ""
    if model is not None and (pin := pin_of(settings_of(home, config))()):
        model.follow(pin)
    with mini_corpus() as search:

        def check(writer: NodeWriter | None) -> Report:
            responder = Responder(search, writer, START, config.answer_style, language())
            return run(responder, asked, _probe(model, writer, asked))

        report = check(model.writer() if model is not None else None)
        refused, note = "", ""
        if model is not None:
            refused, note = _Judgement(home, model, check, pin).settle(report)
    outcome = Outcome(report, prompts.sha256_of(sets), refused, note)
    _keep(home, outcome)
    return outcome


def run(responder: Responder, asked: Sequence[Prompt], probes: Sequence[Row] = ()) -> Report:
    """Ask every prompt.

    Args:
        responder: what answers.
        asked: the prompts.
        probes: what else was checked of the model.
    """
    began = time.perf_counter()
    rows = []
    for prompt in asked:
        answer = responder.answer(Question(prompt.question, language=prompt.language))
        faults = tuple(judge.faults(prompt, answer))
        detail = " ".join(answer.answer.split())[:120]
        rows.append(Row(prompt.id, prompt.kind, prompt.language, faults, detail))
    seconds = round(time.perf_counter() - began, 3)
    return Report(responder.model, (*rows, *probes), seconds)


class _Judgement:
    """Whether the newest adapter is to blame, and what follows.

    `pin`: sha256 of the version that the page's settings choose, "" for the newest. What was chosen
    is never gone back from.
    """

    def __init__(self, home: NodeHome, model: NodeModel, check: _Check, pin: str = "") -> None:
        self._home, self._model, self._check, self._pin = home, model, check, pin

    def settle(self, report: Report) -> tuple[str, str]:
        """What was gone back from, and a sentence; both may be ""."""
        if self._pin and report.model.sha256 == self._pin:
            return "", "" if report.has_passed else _chosen_fails(report.model)
        store = store_of(self._home)
        newest = _current(store) if store is not None else None
        if store is None or newest is None:
            return "", ""
        verdict = load_verdicts(self._home).of.get(newest.sha256)
        if report.model.sha256 != newest.sha256:
            if verdict is not None or not report.has_passed:
                return "", self._model.refused
            return self._refuse(newest, self._model.refused, report.model)
        if report.has_passed:
            note_verdict(self._home, newest)
            return "", ""
        if verdict is not None and not verdict.reason:
            return "", _("This adapter has passed before: the fault lies elsewhere.")
        before = self._before(store)
        if not before.has_passed:
            return "", _("What was there before fails too: the fault lies elsewhere.")
        return self._refuse(newest, report.reason(), before.model)

    def _before(self, store: AdapterStore) -> Report:
        """The check of the version before, or of the base model if none is kept."""
        previous = store.previous()
        if previous is None:
            return self._check(self._model.writer(adapter=False))
        self._model.follow(previous.sha256)
        return self._check(self._model.writer())

    def _refuse(self, newest: Global, reason: str, now: ModelName) -> tuple[str, str]:
        note_verdict(self._home, newest, reason)
        logger.warning("the chat goes back from global v%d", newest.version)
        name = f"global@v{newest.version}"
        return name, _("The chat goes back from {old} to {new}: {reason}").format(
            old=name, new=now.adapter or now.base, reason=reason
        )


def _chosen_fails(model: ModelName) -> str:
    return _("{name}, which you chose, fails; the page's settings choose another.").format(
        name=model.adapter
    )


def _current(store: AdapterStore) -> Global | None:
    try:
        return store.current()
    except AdapterError:  # `client.chat_model` says so
        return None


def _probe(
    model: NodeModel | None, writer: NodeWriter | None, asked: Sequence[Prompt]
) -> list[Row]:
    """How likely the model finds right answers, with its adapter, against without it."""
    if model is None or writer is None:
        return []
    voice = writer.voice()
    if not writer.model.adapter:
        return []
    base = model.writer(adapter=False).voice()
    rows = []
    for name in prompts.LANGUAGES:
        documents = [
            Document(question=prompt.question, answer=prompt.reference)
            for prompt in asked
            if prompt.reference and prompt.language == name
        ]
        if documents:
            own, plain = (_perplexity(each, documents, model) for each in (voice, base))
            faults = () if own <= MOST_PERPLEXITY * plain else (_("finds right answers unlikely"),)
            detail = f"perplexity {own:.1f}, base {plain:.1f}"
            rows.append(Row(f"{name}-likelihood", "model", name, faults, detail))
    return rows


def _perplexity(voice: Voice, documents: Sequence[Document], model: NodeModel) -> float:
    losses = voice.losses(documents, max_tokens=model.prompts.window)
    nats, tokens = losses.sum(axis=0)
    return math.exp(min(50.0, float(nats / tokens))) if math.isfinite(nats) else math.inf


def _keep(home: NodeHome, outcome: Outcome) -> None:
    content = outcome.to_json()
    durable.make_folder(home.runs)
    text = json.dumps(content, indent=2, ensure_ascii=False)
    durable.write_text(home.runs / LATEST, text + "\n")
    brief = {**content, "rows": [row["id"] for row in content["rows"] if row["faults"]]}
    durable.append_line(home.runs / HISTORY, json.dumps(brief, ensure_ascii=False))
