"""`flower-client doctor`: is everything in order that a round needs?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.base import find_base, search_folder
from client.config import NodeConfig, NodeHome, load_config, load_federation
from client.knowledge import open_memory
from client.tor_check import Ears, check
from federation import bundle, settings
from federation.errors import ConscienceError
from federation.language import _
from rag.chat.memory import LOADED_TURNS


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    is_good: bool
    detail: str


def all_checks(home: NodeHome) -> list[Finding]:
    """Look at settings, private files, base model, code and every leg of the way to the server."""
    findings = [
        _look("config", lambda: _config(home)),
        _look("private", lambda: _private(home)),
        _look("memory", lambda: _memory(home)),
    ]
    if not home.federation.exists():
        return [*findings, Finding("joined", False, _("This node has not joined a federation."))]
    return [
        *findings,
        _look("base", lambda: _base(home)),
        _look("code", lambda: _code(home)),
        *_way(home),
    ]


def model(home: NodeHome, config: NodeConfig) -> list[Finding]:
    """Load the base model this node would train, and say why this one."""
    from federation.model.load import load_base, open_base

    def look() -> str:
        if home.federation.exists():
            joined = load_federation(home)
            choice = find_base(home, config, base_ref=joined.base_ref, base_hash=joined.base_hash)
            load_base(choice, quantization=config.quantization, device=config.device)
        else:
            choice = open_base(
                config.model,
                search=search_folder(home, config),
                revision=config.revision,
                quantization=config.quantization,
                device=config.device,
            ).choice
        return "; ".join([f"{choice.ref} ({choice.identity[:12]})", *choice.reasons])

    return [_look("model", look)]


def _look(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except ConscienceError as err:
        return Finding(name, False, f"{err.message} {err.hint}".strip())


def _config(home: NodeHome) -> str:
    load_config(home)
    return str(home.config)


def _private(home: NodeHome) -> str:
    files = [path for path in home.keys.glob("*") if path.is_file() and path.suffix != ".lock"]
    for path in [*files, *(path for path in (home.config,) if path.exists())]:
        settings.require_private(path)
    return _("{count} private files").format(count=len(files))


def _memory(home: NodeHome) -> str:
    """What the next talk begins with; the file is read, so a damaged one is named."""
    memory = open_memory(home, load_config(home)[0])
    sessions = memory.sessions()
    turns = memory.turns(sessions[0].id, last=LOADED_TURNS) if sessions else []
    text = _("{turns} turns of the last talk loaded; {count} talks are remembered")
    return text.format(turns=len(turns), count=len(sessions))


def _base(home: NodeHome) -> str:
    joined = load_federation(home)
    config = load_config(home)[0]
    choice = find_base(home, config, base_ref=joined.base_ref, base_hash=joined.base_hash)
    return f"{choice.ref} ({choice.identity[:12]})"


def _code(home: NodeHome) -> str:
    same = bundle.bundle_hash() == load_federation(home).bundle_hash
    if same:
        return _("as the server's when this node joined")
    return _("differs from the server's when this node joined; one of the two was updated")


def _way(home: NodeHome) -> list[Finding]:
    """Each leg of the way to the server that was looked at, as `flower-client tor check` does."""
    try:
        legs = check(home, load_config(home)[0], Ears())
    except ConscienceError as err:
        return [Finding("way", False, f"{err.message} {err.hint}".strip())]
    return [
        Finding(f"way: {leg.leg}", leg.state == "ok", f"{leg.sentence} {leg.hint}".strip())
        for leg in legs
        if leg.state in ("ok", "failed")
    ]
