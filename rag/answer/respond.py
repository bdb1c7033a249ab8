"""From a question to an answer: search, doubt, choose a style, quote or write, cite, measure."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rag.answer import extract as extraction
from rag.answer.abstain import LIMIT, START, Refusal
from rag.answer.cite import Cited, attach, source_of, sources_of
from rag.answer.clean import is_suspicious, one_line
from rag.answer.events import Done, Event, Question, SourcesFound, Token
from rag.answer.follow_up import in_context
from rag.answer.generate import Writer, Written, stream
from rag.answer.notes import remembered_in
from rag.answer.phrases import phrase
from rag.answer.prompt import Prompt, Request
from rag.answer.result import Answer, Figures, ModelName, Source, Style, Support, Usage
from rag.answer.search import Search
from rag.answer.sentences import Span
from rag.answer.style import Choice, Wish, choose
from rag.answer.words import language_of
from rag.passages import Evidence, Found, Passage

if TYPE_CHECKING:
    from federation.model.sampling import Sampling


@dataclass(frozen=True)
class Responder:
    """Answers questions.

    Attributes:
        search: None while there is nothing to search.
        writer: None while no model is loaded.
        refusal: fitted to the corpus that `search` searches.
        wish: the setting `answer_style`.
        language: of answers to questions that do not tell theirs.
    """

    search: Search | None
    writer: Writer | None = None
    refusal: Refusal = START
    wish: Wish = "auto"
    language: str = "en"

    @property
    def model(self) -> ModelName:
        """Name of what writes."""
        return self.writer.model if self.writer is not None else ModelName()

    def answer(self, question: Question) -> Answer:
        """The whole answer at once."""
        events = list(self.events(question))
        assert isinstance(events[-1], Done)  # noqa: S101 - `events` ends so
        return events[-1].answer

    def events(
        self, question: Question, is_stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """The answer as it comes: sources, pieces, and the whole with its figures."""
        turn = _Turn(self, question, is_stopped)
        yield from turn.run()


class _Turn:
    """One answer in the making."""

    def __init__(
        self, responder: Responder, question: Question, is_stopped: Callable[[], bool]
    ) -> None:
        self._with = responder
        self._asked = question
        self._is_stopped = is_stopped
        self._began = time.perf_counter()
        self._first = 0.0
        self._language = question.language or language_of(question.text, responder.language)
        self._query = in_context(question.text, question.turns)
        self._metrics: Figures = {}
        self._usage = Usage()

    def run(self) -> Iterator[Event]:
        found = self._search()
        chance = self._chance(found)
        if self._asked.rag and not self._asked.anyway and chance < LIMIT:
            remembered = remembered_in(self._asked.notes, self._asked.text, self._language)
            yield from (
                self._quote(remembered, "remembered") if remembered else self._refuse(found, chance)
            )
            return
        near = _near(found.passages, self._asked.min_score) if found else ()
        passages = _within(near, self._asked.max_chars)
        choice = self._choose(passages)
        if choice.style == "extractive":
            yield from self._quote(passages, "quoting", choice.reason)
            return
        yield from self._write(passages, choice)

    def _search(self) -> Found | None:
        if self._with.search is None or not self._asked.rag:
            return None
        found = self._with.search.find(self._query, self._asked.top_k)
        self._metrics["retrieve_ms"] = self._elapsed()
        self._metrics |= {f"retrieve_{step}_s": took for step, took in found.seconds.items()}
        self._metrics |= _numbers(found.evidence)
        self._metrics["terms"] = " ".join(found.terms)
        return found

    def _chance(self, found: Found | None) -> float:
        chance = self._with.refusal.probability(found.evidence) if found and found.passages else 0.0
        self._metrics["p_answerable"] = chance
        self._metrics["decision"] = int(chance >= LIMIT or self._asked.anyway)
        return chance

    def _choose(self, passages: Sequence[Passage]) -> Choice:
        choice = choose(self._with.wish, self._with.writer, self._language)
        if not passages and self._with.writer is not None:
            return Choice("generative", phrase("why no retrieval", self._language))
        return choice

    def _refuse(self, found: Found | None, chance: float) -> Iterator[Event]:
        passages = found.passages if found else ()
        sources = sources_of(self._query, passages, Cited((), {}), self._language)
        yield SourcesFound(sources)
        if self._with.search is None:
            text = phrase("no sources", self._language)
        else:
            text = phrase("nothing", self._language)
        if sources:
            once = {source.document_id: source for source in reversed(sources)}
            nearest = sorted(once.values(), key=lambda source: source.n)
            listed = [f"- {source.title or source.quote[:60]} [{source.n}]" for source in nearest]
            text = "\n".join([text, phrase("nearest", self._language), *listed])
        reason = phrase("why nothing", self._language, p=f"{chance:.2f}", limit=LIMIT)
        yield self._token(text)
        yield Done(self._result(text, "none", reason, sources, ()))

    def _quote(
        self, passages: Sequence[Passage], opening: str, reason: str = ""
    ) -> Iterator[Event]:
        extracted = self._extract(passages)
        if not extracted and opening == "remembered":  # too short for a sentence: whole
            whole = " ".join(passages[0].text.split())
            extracted = [extraction.Extracted(1, Span(0, len(passages[0].text)), whole, 1.0, 1.0)]
        if not extracted:
            found = Found("", (), tuple(passages), _NOTHING, "", {})
            yield from self._refuse(found, 0.0)
            return
        spans = _first_spans(extracted)
        sources = tuple(
            source_of(n, passage, spans.get(n, Span(0, len(passage.text))), is_cited=n in spans)
            for n, passage in enumerate(passages, start=1)
        )
        yield SourcesFound(sources)
        lead = f"{phrase(opening, self._language)}\n"
        text = f"{lead}{extraction.as_text(extracted)}"
        yield self._token(text)
        sentences = _quoted(text, len(lead), extracted)
        why = reason or phrase("why remembered", self._language)
        yield Done(self._result(text, "extractive", why, sources, sentences))

    def _extract(self, passages: Sequence[Passage]) -> list[extraction.Extracted]:
        """By the question's own words; by those of the one before too if it has none that occur."""
        own = extraction.extract(self._asked.text, passages, self._language)
        if self._query == self._asked.text or any(entry.coverage for entry in own):
            return own
        return extraction.extract(self._query, passages, self._language)

    def _write(self, passages: Sequence[Passage], choice: Choice) -> Iterator[Event]:
        from federation.model.sampling import Sampling

        writer = self._with.writer
        if writer is None:
            yield from self._refuse(None, 0.0)
            return
        passages = sorted(passages, key=lambda passage: is_suspicious(passage.text))  # these last
        sampling = self._asked.sampling or Sampling()
        prompt = self._prompt(writer, passages, sampling)
        if passages and not prompt.sources:
            yield from self._quote(passages, "quoting", phrase("why no room", self._language))
            return
        used = [passages[index] for index in prompt.sources]
        yield SourcesFound(sources_of(self._query, used, Cited((), {}), self._language))
        written = Written()
        pieces = writer.write(prompt.ids, sampling, self._is_stopped)
        for text in stream(pieces, len(used), written):
            yield self._token(text)
        if not written.text.strip() and not self._is_stopped():
            written.text = phrase("no answer", self._language)
            yield self._token(written.text)
        yield Done(self._finished(written, prompt, used, choice))

    def _prompt(self, writer: Writer, passages: Sequence[Passage], sampling: Sampling) -> Prompt:
        request = Request(
            question=self._asked.text,
            language=self._language,
            passages=passages,
            turns=self._asked.turns,
            notes=[entry.text for entry in self._asked.notes],
        )
        return writer.prompts.build(request, max_new_tokens=sampling.max_new_tokens)

    def _finished(
        self, written: Written, prompt: Prompt, used: Sequence[Passage], choice: Choice
    ) -> Answer:
        cited = attach(written.text, used, self._language) if used else Cited((), {})
        sources = sources_of(self._query, used, cited, self._language)
        self._usage = replace(
            self._usage, prompt_tokens=len(prompt.ids), answer_tokens=written.tokens
        )
        seconds = max(1e-9, time.perf_counter() - self._began - self._first / 1000)
        self._metrics |= {
            "perplexity": written.perplexity(),
            "entropy": written.entropy(),
            "tokens_per_s": written.tokens / seconds,
            "prompt_turns": prompt.turns,
            "prompt_notes": prompt.notes,
        }
        answer = self._result(written.text, "generative", choice.reason, sources, cited.sentences)
        return replace(answer, was_stopped=self._is_stopped())

    def _result(
        self,
        text: str,
        style: Style,
        reason: str,
        sources: tuple[Source, ...],
        sentences: tuple[Support, ...],
    ) -> Answer:
        self._metrics |= _shares(sentences)
        usage = replace(self._usage, latency_ms=self._elapsed(), ttft_ms=self._first)
        return Answer(
            question=self._asked.text,
            answer=text,
            language=self._language,
            abstained=style == "none",
            style=style,
            style_reason=one_line(reason),
            sources=sources,
            sentences=sentences,
            metrics=dict(self._metrics),
            model=self._with.model,
            usage=usage,
            message_id=self._asked.message_id or secrets.token_hex(16),
        )

    def _token(self, text: str) -> Token:
        self._first = self._first or self._elapsed()
        return Token(text)

    def _elapsed(self) -> float:
        return round((time.perf_counter() - self._began) * 1000, 3)


_NOTHING = Evidence(0, 0.0, 0.0, 0.0, None)


def _near(passages: Sequence[Passage], min_score: float) -> Sequence[Passage]:
    least = min_score * max((passage.score for passage in passages), default=0.0)
    return [passage for passage in passages if passage.score >= least]


def _within(passages: Sequence[Passage], max_chars: int) -> Sequence[Passage]:
    """The first passages that together have at most `max_chars` characters, at least one."""
    if not max_chars:
        return passages
    kept = list(passages[:1])
    for passage in passages[1:]:
        if sum(len(entry.text) for entry in [*kept, passage]) > max_chars:
            break
        kept.append(passage)
    return kept


def _numbers(evidence: Evidence) -> Figures:
    return {
        "chunks": evidence.chunks,
        "bm25": evidence.bm25,
        "ratio": evidence.ratio,
        "coverage": evidence.coverage,
        "cosine": evidence.cosine,
    }


def _shares(sentences: Sequence[Support]) -> Figures:
    if not sentences:
        return {"supported": None, "matched": None}
    return {
        "supported": sum(entry.is_supported for entry in sentences) / len(sentences),
        "matched": sum(entry.is_matched for entry in sentences) / len(sentences),
    }


def _first_spans(extracted: Sequence[extraction.Extracted]) -> dict[int, Span]:
    """Number -> the best sentence quoted from it."""
    best: dict[int, extraction.Extracted] = {}
    for entry in extracted:
        if entry.n not in best or entry.value > best[entry.n].value:
            best[entry.n] = entry
    return {n: entry.span for n, entry in best.items()}


def _quoted(
    text: str, begin: int, extracted: Sequence[extraction.Extracted]
) -> tuple[Support, ...]:
    """Where each quotation stands in the answer; it is supported by being one."""
    found = []
    for entry in extracted:
        start = text.index(f"«{entry.shown}»", begin)
        begin = start + len(entry.shown) + 2
        end = begin + len(f" [{entry.n}]")
        found.append(Support(start, end, (entry.n,), 1.0, is_supported=True, is_matched=False))
    return tuple(found)
