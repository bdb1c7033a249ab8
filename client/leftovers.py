"""What an earlier federation left in a node's home: put aside before joining another one.

A node without `federation.json` may still hold global adapters and packages: its owner left one
federation, or a joining was cut short. The adapters are another operator's, with version numbers
that would make the new operator's look like a step back; the packages were made for somebody else.
They are moved, never deleted.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from client.config import NodeConfig, NodeHome
from client.outbox import DATABASE, open_outbox
from federation import durable
from federation.errors import AdapterError


def put_aside(home: NodeHome, config: NodeConfig, now: datetime) -> Path | None:
    """Move received adapters and packages below `earlier/`; None if there are none.

    Args:
        home: a home that has not joined.
        config: its settings.
        now: names the folder.
    """
    found = [path for path in (home.adapters, home.current_adapter) if path.exists()]
    if _has_packages(home, config):
        found.append(home.outbox)
    if not found:
        return None
    folder = _new_folder(home.earlier, now)
    for path in found:
        path.rename(folder / path.name)
        durable.sync_folder(path.parent)
    durable.sync_folder(folder)
    return folder


def _has_packages(home: NodeHome, config: NodeConfig) -> bool:
    if not (home.outbox / DATABASE).exists():
        return any(home.outbox.glob("*.zip"))
    try:
        with open_outbox(home, config) as outbox:
            return bool(outbox.entries())
    except AdapterError:  # damaged; what lies beside it may be whole
        return True


def _new_folder(parent: Path, now: datetime) -> Path:
    name = now.strftime("%Y%m%dT%H%M%SZ")
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return durable.make_folder(folder)
