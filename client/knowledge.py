"""What the chat answers with: what this node's files hold, its model, its adapter, its memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from client.chat_model import NodeModel, NodeWriter
from client.config import NodeConfig, NodeHome
from federation.errors import FormatError, ModelError
from federation.language import language
from rag.answer import abstain
from rag.answer.respond import Responder
from rag.answer.search import Search
from rag.chat.memory import Memory

logger = logging.getLogger(__name__)


def open_model(home: NodeHome, config: NodeConfig) -> NodeModel | None:
    """The node's model, not loaded yet; None, and a line in the log, if it has none."""
    try:
        return NodeModel(home, config)
    except ModelError as err:
        logger.warning("the chat has no model: %s", err)
        return None


def open_responder(
    home: NodeHome, config: NodeConfig, *, search: Search | None = None
) -> Responder:
    """What answers questions on this node; see `responder_of`."""
    return open_responders(home, config, search)(True)


def open_responders(
    home: NodeHome, config: NodeConfig, search: Search | None
) -> Callable[[bool], Responder]:
    """Gives what answers with the network's adapter (True), or with the base model alone.

    Both write with one model in memory; see `responder_of`.
    """
    model = open_model(home, config)

    def responder(adapter: bool) -> Responder:
        writer = model.writer(adapter=adapter) if model is not None else None
        return responder_of(home, config, search, writer)

    return responder


def responder_of(
    home: NodeHome, config: NodeConfig, search: Search | None, writer: NodeWriter | None
) -> Responder:
    """What answers questions on this node.

    Args:
        home: the node's home.
        config: its settings.
        search: None while there is nothing to search.
        writer: its model's; None quotes.

    With a damaged fit of the refusal answers go by its start values.
    """
    return Responder(search, writer, _refusal(home), config.answer_style, language())


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
