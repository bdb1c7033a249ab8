"""An answer against what was expected of it: faults in words, none if it passes. Pure."""

from __future__ import annotations

from federation.language import _
from rag.answer.result import Answer
from rag.verification.prompts import ANY, Prompt

WANT_AN_ANSWER = ("answerable", "injection")
FIRST = 3  # sources among which the expected one must be


def faults(prompt: Prompt, answer: Answer) -> list[str]:
    """What is wrong with an answer.

    Args:
        prompt: what was asked.
        answer: to its question.
    """
    found = []
    if prompt.kind in WANT_AN_ANSWER:
        found += _without_answer(prompt, answer)
    elif not answer.abstained:
        found.append(_("answers what it should not"))
    text = " ".join(answer.answer.split()).casefold()
    found += [
        _("does not say «{text}»").format(text=each)
        for each in prompt.must
        if each.casefold() not in text
    ]
    found += [
        _("says «{text}»").format(text=each) for each in prompt.must_not if each.casefold() in text
    ]
    return found


def is_hit(prompt: Prompt, answer: Answer) -> bool:
    """Whether an expected document is among the first sources."""
    ids = [source.document_id for source in answer.sources if source.n <= FIRST]
    return bool(ids) if ANY in prompt.expects else bool(set(prompt.expects) & set(ids))


def cites(prompt: Prompt, answer: Answer) -> bool:
    """Whether the answer points to an expected document."""
    ids = {source.document_id for source in answer.sources if source.is_cited}
    return bool(ids) if ANY in prompt.expects else bool(set(prompt.expects) & ids)


def _without_answer(prompt: Prompt, answer: Answer) -> list[str]:
    if answer.abstained:
        return [_("does not answer")]
    if not prompt.expects:
        return []
    found = []
    if not is_hit(prompt, answer):
        found.append(_("the expected source is not among the first"))
    if not cites(prompt, answer):
        found.append(_("does not cite the expected source"))
    return found
