"""Whether the sources answer a question at all: a small logistic on raw numbers of retrieval.

The fused score never enters: it is relative to its question. The start values are those measured
on 240 paragraphs of XQuAD; they do not travel between corpora, so `calibrate` fits them to the
user's own: each title asks for its own item, once with the item there and once without it. Nobody
asks in the words of a title, so some of a title's words are exchanged for those of another one.
The fit is pulled towards the start values, all the more the fewer items there are.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federation import durable
from federation.errors import FormatError
from federation.language import _
from rag.answer.search import SearchWithout
from rag.answer.words import WORD, content_words, language_of
from rag.passages import Evidence

logger = logging.getLogger(__name__)

FORMAT = 2  # 1 was fitted to what FTS5 says of a few texts, see rag.retrieval.handful
LIMIT = 0.5
LEAST_ITEMS = 60  # fitted to fewer, it refuses a quarter of what the texts do answer
LEAST_WORDS = 3  # of a title that is asked for
GROWTH = 1.5
EXCHANGED = 0.3  # share of a title's words
PULL = 4.0  # strength of the start values, in examples of each kind
ROUNDS = 50
_SCALE = np.array([1.0, 10.0, 0.5, 0.3, 0.3])  # typical size of each number

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Refusal:
    """logit P(the sources answer) = intercept + bm25·b + ratio·r + coverage·c + cosine·d.

    Attributes:
        cosine: 0 where it was fitted without vectors; then they are not looked at.
        chunks: size of the corpus it was fitted to; 0 for the start values.
        embedder: whose cosines it was fitted to.
        items: titles it was fitted to.
        auc: how well it told the two kinds apart on items it was not fitted to; None without a fit.
        format: of the file.
    """

    intercept: float = -8.727
    bm25: float = 0.373
    ratio: float = 4.829
    coverage: float = 3.46
    cosine: float = 0.0
    chunks: int = 0
    embedder: str = ""
    items: int = 0
    auc: float | None = None
    format: int = FORMAT

    def probability(self, evidence: Evidence) -> float:
        """That the sources answer the question, 0 to 1."""
        logit = float(_row(evidence) @ self._weights())
        return float(1 / (1 + np.exp(-np.clip(logit, -60, 60))))

    def is_stale(self, chunks: int, embedder: str) -> bool:
        """Whether a corpus of `chunks` with this embedder asks for a new fit."""
        if not self.chunks:
            return True
        grown = chunks > GROWTH * self.chunks or chunks * GROWTH < self.chunks
        return grown or embedder != self.embedder

    def _weights(self) -> Array:
        return np.array([self.intercept, self.bm25, self.ratio, self.coverage, self.cosine])


START = Refusal()


def calibrate(
    search: SearchWithout, items: Sequence[tuple[str, str]], *, seed: int = 0, k: int = 1
) -> Refusal:
    """Fit to a corpus.

    Args:
        search: over that corpus.
        items: title and document id of some of its documents, at least `LEAST_ITEMS` with a title
            of three words; a few hundred are enough.
        seed: of the words that are exchanged.
        k: passages asked for.

    Returns:
        The start values, unstamped, if there are too few items.
    """
    questions = _questions(items, random.Random(seed))  # noqa: S311 - no secret
    if len(questions) < LEAST_ITEMS:
        return START
    there, gone, last = [], [], START
    for question, document_id in questions:
        found = search.find(question, k)
        there.append(_row(found.evidence))
        gone.append(_row(search.find(question, k, without=document_id).evidence))
        last = replace(last, chunks=found.evidence.chunks, embedder=found.embedder)
    weights = _fit(np.array(there), np.array(gone))
    held_out = _cross_auc(np.array(there), np.array(gone))
    logger.info("refusal fitted to %d titles, AUC %.3f", len(questions), held_out)
    intercept, bm25, ratio, coverage, cosine = map(float, weights)
    return Refusal(
        intercept=intercept,
        bm25=bm25,
        ratio=ratio,
        coverage=coverage,
        cosine=cosine if last.embedder else 0.0,
        chunks=last.chunks,
        embedder=last.embedder,
        items=len(questions),
        auc=held_out,
    )


def refreshed(
    path: Path,
    search: SearchWithout,
    items: Sequence[tuple[str, str]],
    *,
    chunks: int,
    embedder: str,
) -> Refusal:
    """The fit in `path`, made anew and written if the corpus has outgrown it or it is damaged.

    Args:
        path: of the file.
        search: over the corpus.
        items: see `calibrate`.
        chunks: of the corpus now.
        embedder: of its vectors now, "" for none.
    """
    try:
        known = load(path)
    except FormatError as err:
        logger.warning("the refusal is fitted anew: %s", err)
        known = START
    if not known.is_stale(chunks, embedder):
        return known
    fitted = calibrate(search, items)
    if fitted.chunks:
        save(fitted, path)
    return fitted


def save(refusal: Refusal, path: Path) -> None:
    """Write as JSON."""
    durable.write_text(path, json.dumps(asdict(refusal), indent=1) + "\n")


def load(path: Path) -> Refusal:
    """Read what `save` wrote; the start values if there is no such file, or an older one.

    Raises:
        FormatError: damaged, or of a newer version.
    """
    if not path.is_file():
        return START
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        if int(values["format"]) > FORMAT:
            text = _("{path} was made by a newer version of conscienceai").format(path=path)
            raise FormatError(text, hint=_("Install the newer version, then try again."))
        if int(values["format"]) < FORMAT:
            return START
        refusal = Refusal(**values)
        is_sound = bool(np.isfinite(refusal._weights().astype(float)).all())
    except (ValueError, TypeError, KeyError) as err:
        raise _damaged(path) from err
    if not is_sound:
        raise _damaged(path)
    return refusal


def _damaged(path: Path) -> FormatError:
    text = _("{path} is damaged").format(path=path)
    return FormatError(text, hint=_("Delete it: it is made anew."))


def _row(evidence: Evidence) -> Array:
    cosine = 0.0 if evidence.cosine is None else evidence.cosine
    return np.array([1.0, evidence.bm25, evidence.ratio, evidence.coverage, cosine])


def _questions(items: Sequence[tuple[str, str]], chance: random.Random) -> list[tuple[str, str]]:
    """Titles with some of their words exchanged; the small words stay, they tell the language."""
    worded = [(title, content_words(title, language_of(title)), id) for title, id in items]
    worded = [entry for entry in worded if len(entry[1]) >= LEAST_WORDS]
    made = []
    for title, words, id in worded:
        strangers = chance.choice(worded)[1]
        gone = chance.sample(words, max(1, round(EXCHANGED * len(words))))
        swap = {word: chance.choice(strangers) for word in gone}
        made.append((_exchanged(title, swap), id))
    return made


def _exchanged(title: str, swap: Mapping[str, str]) -> str:
    return WORD.sub(lambda found: swap.get(found[0].lower(), found[0]), title)


def _fit(there: Array, gone: Array) -> Array:
    """Newton's method on the log-likelihood with a Gaussian around the start values."""
    rows = np.vstack([there, gone]) / _SCALE
    truth = np.concatenate([np.ones(len(there)), np.zeros(len(gone))])
    start = START._weights() * _SCALE
    weights = start.copy()
    pull = np.full(len(weights), PULL / 4)
    for _round in range(ROUNDS):
        guess = 1 / (1 + np.exp(-np.clip(rows @ weights, -30, 30)))
        slope = rows.T @ (truth - guess) - pull * (weights - start)
        curve = (rows * (guess * (1 - guess))[:, None]).T @ rows + np.diag(pull)
        step = np.linalg.solve(curve, slope)
        weights = weights + step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-6:
            break
    return np.asarray(weights / _SCALE, dtype=np.float64)


def _cross_auc(there: Array, gone: Array, folds: int = 5) -> float:
    """AUC of items left out of their fit, in `folds` parts."""
    high, low = [], []
    part = np.arange(len(there)) % folds
    for fold in range(folds):
        weights = _fit(there[part != fold], gone[part != fold])
        high.append(there[part == fold] @ weights)
        low.append(gone[part == fold] @ weights)
    return auc(np.concatenate(high), np.concatenate(low))


def auc(high: Array, low: Array) -> float:
    """Chance that a number of `high` is above one of `low`; a tie counts half."""
    order = np.sort(low)
    below = np.searchsorted(order, high, "left") + np.searchsorted(order, high, "right")
    return float(below.mean() / (2 * len(low)))
