"""`flower-client smoke`: three questions, three answers, three sources; a minute at most.

They are titles of the node's own texts, asked for as they stand; a node that holds too few asks
about the shipped texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from client.config import NodeConfig, NodeHome
from client.knowledge import open_model, responder_of
from client.library import NodeSearch, Say, following
from client.verification import mini_corpus
from federation.errors import ConscienceError
from federation.language import _, language
from federation.model.sampling import Sampling
from rag.answer.abstain import START
from rag.answer.events import Question
from rag.answer.respond import Responder
from rag.answer.words import content_words, language_of
from rag.verification import judge, prompts
from rag.verification.prompts import Prompt

if TYPE_CHECKING:
    from rag.retrieval.library import Library

ASKED = 3
LEAST_WORDS = 3  # of a title, that its text holds too
TITLES = 400
SHORT = Sampling(max_new_tokens=64, temperature=0)


@dataclass(frozen=True)
class Asked:
    """One question and what came of it.

    Attributes:
        hit: whether the text it is about is among the first three sources.
        source: title and link of the source cited first.
    """

    question: str
    answered: bool
    cited: bool
    hit: bool
    source: str

    @property
    def has_passed(self) -> bool:
        """Whether all is well."""
        return self.answered and self.cited and self.hit


@dataclass(frozen=True)
class Smoke:
    """All of it; `corpus` is "own" or "shipped"."""

    corpus: str
    asked: tuple[Asked, ...]

    @property
    def has_passed(self) -> bool:
        """Whether all is well."""
        return all(each.has_passed for each in self.asked)

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"passed": self.has_passed, **asdict(self)}


def smoke(home: NodeHome, config: NodeConfig, say: Say) -> Smoke:
    """Ask three questions.

    Args:
        home: the node's home.
        config: its settings.
        say: told what is odd about the library.

    Raises:
        ConscienceError: this node holds no text at all.
    """
    with _asked_of(home, config, say) as (corpus, responder, asked):
        return Smoke(corpus, tuple(_ask(responder, prompt) for prompt in asked))


@contextmanager
def _asked_of(
    home: NodeHome, config: NodeConfig, say: Say
) -> Iterator[tuple[str, Responder, list[Prompt]]]:
    model = open_model(home, config)
    writer = model.writer() if model is not None else None
    with following(home, config, say) as library:
        if not library.store.count("documents"):
            raise ConscienceError(
                _("This node holds no text yet, so nothing can be asked about."),
                hint=_(
                    "Read some: flower-client ingest --feeds starter-en, or ingest --path FOLDER"
                ),
            )
        own = questions_of(library)
        if len(own) == ASKED:
            yield "own", responder_of(home, config, NodeSearch(library), writer), own
            return
    with mini_corpus() as search:
        shipped = [each for one in prompts.shipped() for each in one.prompts]
        chosen = [each for each in shipped if each.kind == "answerable"]
        wish = config.answer_style
        yield "shipped", Responder(search, writer, START, wish, language()), spread(chosen)


def questions_of(library: Library) -> list[Prompt]:
    """Titles of three texts, spread over all that can be asked for by their title; or none."""
    titles = library.store.titles(TITLES)
    known = [title for title, _id in titles]
    found = []
    for title, id_ in titles:
        document = library.store.document(id_)
        if document is None or known.count(title) > 1:
            continue
        held = set(content_words(document.text, document.language))
        words = set(content_words(title, language_of(title)))
        if len(words & held) >= LEAST_WORDS:
            found.append(Prompt(id=id_, kind="answerable", question=title, expects=(id_,)))
    return spread(found)


def spread(found: list[Prompt]) -> list[Prompt]:
    """The first, the middle and the last; none if there are no three."""
    return [found[0], found[len(found) // 2], found[-1]] if len(found) >= ASKED else []


def _ask(responder: Responder, prompt: Prompt) -> Asked:
    answer = responder.answer(Question(prompt.question, language=prompt.language, sampling=SHORT))
    cited = [source for source in answer.sources if source.is_cited]
    shown = f"{cited[0].title} {cited[0].url}".strip() if cited else ""
    hit = judge.is_hit(prompt, answer)
    return Asked(prompt.question, not answer.abstained, bool(cited), hit, shown)
