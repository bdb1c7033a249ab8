"""What the chat answers with: what this node's files hold, its model, its adapter, its memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from client.adapters import AdapterStore
from client.base import find_base, search_folder
from client.config import NodeConfig, NodeHome, load_federation
from federation.errors import AdapterError, FormatError, ModelError
from federation.language import language
from federation.model.choose import BaseChoice, choose_base
from federation.model.headers import parameters_of
from rag.answer import abstain
from rag.answer.generate import ModelWriter
from rag.answer.prompt import PromptBuilder
from rag.answer.respond import Responder
from rag.answer.result import ModelName
from rag.answer.search import Search
from rag.chat.memory import Memory

if TYPE_CHECKING:
    from federation.model.speak import Piece, Sampling

logger = logging.getLogger(__name__)


class NodeWriter:
    """The node's model with its current adapter; nothing heavy is loaded before it has to write.

    Args:
        home: the node's home.
        config: its settings.
    """

    def __init__(self, home: NodeHome, config: NodeConfig) -> None:
        self._home = home
        self._config = config
        self._choice = _choose(home, config)
        self.name = self._choice.ref
        self.parameters = parameters_of(self._choice.path)
        self.reasons = self._choice.reasons

    @property
    def prompts(self) -> PromptBuilder:
        """Loads the model."""
        return self._writer.prompts

    def write(
        self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """Loads the model."""
        return self._writer.write(ids, sampling, is_stopped)

    @cached_property
    def model(self) -> ModelName:
        """Base and adapter that answers are written with."""
        store = _adapters(self._home)
        held = store.held() if store else None
        if held is None:
            return ModelName(self._choice.ref, "", self._choice.identity)
        from federation.adapter.manifest import sha256_of

        return ModelName(self._choice.ref, f"global@v{held.version}", sha256_of(held))

    @cached_property
    def _writer(self) -> ModelWriter:
        from federation.model.load import load_base

        loaded = load_base(
            self._choice, quantization=self._config.quantization, device=self._config.device
        )
        store = _adapters(self._home)
        try:
            current = store.current() if store else None
        except AdapterError as err:  # `model` says that there is none
            logger.warning("the global adapter on disk is not usable: %s", err)
            current = None
        if store is not None and current is not None:
            from federation.model import adapted

            adapted.attach(loaded, store.spec, current.arrays, trainable=False, base=current.base)
        return ModelWriter(loaded)


def open_responder(
    home: NodeHome, config: NodeConfig, *, search: Search | None = None
) -> Responder:
    """What answers questions on this node.

    Args:
        home: the node's home.
        config: its settings.
        search: None while there is nothing to search.

    Without a model answers quote; with a damaged fit of the refusal they go by its start values.
    """
    try:
        writer = NodeWriter(home, config)
    except ModelError as err:
        logger.warning("the chat has no model: %s", err)
        return Responder(search, None, _refusal(home), config.answer_style, language=language())
    wish, model = config.answer_style, writer.model
    return Responder(search, writer, _refusal(home), wish, model, language())


def open_memory(home: NodeHome, config: NodeConfig) -> Memory:
    """What was said on this node."""
    path = home.root / Path(config.memory_path).expanduser() if config.memory_path else home.memory
    return Memory(path, keep_days=config.memory_days)


def _refusal(home: NodeHome) -> abstain.Refusal:
    try:
        return abstain.load(home.refusal)
    except FormatError as err:
        logger.warning("the refusal is not usable: %s", err)
        return abstain.START


def _choose(home: NodeHome, config: NodeConfig) -> BaseChoice:
    if home.federation.exists():
        joined = load_federation(home)
        return find_base(home, config, base_ref=joined.base_ref, base_hash=joined.base_hash)
    return choose_base(
        config.model,
        revision=config.revision,
        search=search_folder(home, config),
        try_load=lambda candidate: None if candidate.path is None else _look(candidate.path),
    )


def _look(folder: Path) -> None:
    parameters_of(folder)


def _adapters(home: NodeHome) -> AdapterStore | None:
    return AdapterStore(home, load_federation(home)) if home.federation.exists() else None
