"""What a model is called in OpenAI's API: with its adapter or alone, with sources or without."""

from __future__ import annotations

from dataclasses import dataclass

from rag.answer.result import ModelName

RAG = "+rag"
ALONE = "-base"


@dataclass(frozen=True)
class Way:
    """How a model is to answer.

    Attributes:
        adapter: False writes with the base model alone.
        rag: whether sources are searched first.
    """

    adapter: bool = True
    rag: bool = False


def name_of(model: ModelName, way: Way) -> str:
    """What an answer's model is called.

    Args:
        model: that wrote it, or would have.
        way: how it was asked.
    """
    name = _base(model)
    if not way.adapter:
        name += ALONE
    elif model.adapter:
        name += f"+{model.adapter}"
    return name + (RAG if way.rag else "")


def listed(model: ModelName) -> list[str]:
    """All names that differ in what they do; `model` is the one with its adapter."""
    ways = [Way(adapter, rag) for adapter in (True, False) for rag in (False, True)]
    return [name_of(model, way) for way in ways if way.adapter or model.adapter]


def way_of(name: str, model: ModelName) -> Way | None:
    """How the model of that name answers; None if there is none.

    The base's bare name is the model with its newest adapter, whichever that is.
    """
    rag = name.endswith(RAG)
    bare = name.removesuffix(RAG)
    if bare in (_base(model), name_of(model, Way())):
        return Way(rag=rag)
    return Way(adapter=False, rag=rag) if bare == _base(model) + ALONE else None


def _base(model: ModelName) -> str:
    return (model.base or "quotes").replace("\\", "/").rstrip("/").rpartition("/")[2]
