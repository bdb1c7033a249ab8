"""Finding the federation's base model among the models at hand, by hash. No torch."""

from __future__ import annotations

from pathlib import Path

from client.config import NodeConfig, NodeHome
from federation.errors import BaseMismatchError, ModelError
from federation.language import _
from federation.model.choose import (
    SEMILLA_REF,
    BaseChoice,
    candidates,
    folder_of,
    identity,
    locate,
)


def search_folder(home: NodeHome, config: NodeConfig) -> Path:
    """Where local models lie."""
    return Path(config.model_dir).expanduser() if config.model_dir else home.models


def find_base(
    home: NodeHome,
    config: NodeConfig,
    *,
    base_ref: str,
    base_hash: str,
    allow_download: bool = False,
) -> BaseChoice:
    """The model whose identity is `base_hash`, whatever it is called here.

    Args:
        home: the node's home.
        config: its `model` is tried first, then `base_ref`, then the usual list.
        base_ref: what the operator calls it.
        base_hash: `federation.model.choose.identity`.
        allow_download: whether a hub model may be fetched.

    Raises:
        BaseMismatchError: none of the models at hand is the federation's.
    """
    reasons: list[str] = []
    search = search_folder(home, config)
    tried = candidates(config.model, search, revision=config.revision) if config.model else []
    for candidate in [*tried, *candidates(base_ref, search)]:
        try:
            found = locate(candidate, allow_download=allow_download and candidate.ref == base_ref)
            known = identity(folder_of(found))
        except ModelError as err:
            reasons.append(f"{candidate.ref}: {err.message}")
            continue
        if known == base_hash:
            return BaseChoice(found.ref, folder_of(found), found.revision, known, tuple(reasons))
        reasons.append(f"{candidate.ref}: {known[:12]}")
    raise BaseMismatchError(
        _("The federation's base model {name} ({wanted}) is not on this machine.").format(
            name=base_ref, wanted=base_hash[:12]
        ),
        hint=_advice(base_ref).format(folder=search, reasons="; ".join(dict.fromkeys(reasons))),
    )


def _advice(base_ref: str) -> str:
    if base_ref == SEMILLA_REF:
        return _("Install the operator's version of conscienceai. Looked at: {reasons}")
    return _("Put it into {folder}, or join with --download. Looked at: {reasons}")
