"""What this node trains from: the global adapter that it holds, or as much of it as has room."""

from __future__ import annotations

from dataclasses import replace

from client.adapters import AdapterStore
from client.config import Federation, NodeHome
from client.sharing import SharingSettings
from client.training_plan import Start
from federation.adapter.parts import at_rank, leading
from federation.errors import ConfigError, TrainingError
from federation.language import _


def held(home: NodeHome, federation: Federation | None) -> Start:
    """Read the global adapter that this node holds, whole.

    Raises:
        TrainingError: this node has not joined, or none has arrived yet.
        AdapterError: the files on disk are not what the operator signed.
    """
    if federation is None:
        raise TrainingError(_("This node has not joined a federation yet."))
    store = AdapterStore(home, federation)
    current = store.current()
    if current is None:
        raise TrainingError(
            _("No global adapter has arrived from the server yet."),
            hint=_("Keep `flower-client run` going until the server's next round."),
        )
    return Start(
        store.spec,
        current.arrays,
        current.version,
        current.sha256,
        current.instructions,
        current.base,
    )


def fitting(start: Start, sharing: SharingSettings) -> Start:
    """Return `start`, or its leading rows where the owner allows no more.

    Raises:
        ConfigError: the federation's rule takes no adapter of a lower rank.
    """
    if not 0 < sharing.max_rank < start.spec.rank:
        return start
    if not start.instructions.any_rank:
        raise ConfigError(
            _("This federation's rule takes no adapter of less than rank {rank}.").format(
                rank=start.spec.rank
            ),
            hint=_("Set `sharing.max_rank` to 0."),
        )
    spec = at_rank(start.spec, sharing.max_rank)
    return replace(start, spec=spec, arrays=leading(start.arrays, spec))
