"""What the page's settings choose: which of the kept adapters the chat writes with."""

from __future__ import annotations

from collections.abc import Callable

from client.chat_model import require_model
from client.config import NodeConfig, NodeHome
from rag.chat.web.settings import ModelChoice, SettingsFile

SETTINGS = "webchat_settings.json"


def settings_of(home: NodeHome, config: NodeConfig) -> SettingsFile:
    """The chat's settings, which name no model that this node has not."""

    def check(wish: ModelChoice) -> None:
        require_model(home, config, wish.base, wish.adapter_sha256)

    return SettingsFile(home.runs / SETTINGS, check)


def pin_of(settings: SettingsFile) -> Callable[[], str]:
    """What says which adapter was chosen, "" for the newest."""
    return lambda: settings.current().model.adapter_sha256
