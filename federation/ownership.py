"""The guard against a stranger in our rooms: nobody else may own a package named like one of ours.

The rooms have plain names (`client`, `server`, …) because Flower imports an app by its folders.
In a shared site-packages another distribution may own the same name, and one of the two then
imports the other's code. Isolated installs do not have this problem; this says so when one does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from federation.errors import RoomError

DISTRIBUTION = "conscienceai"
ROOMS = ("client", "federation", "rag", "server", "strategies")
OUR_ROOT = Path(__file__).resolve().parents[1]


def require_own_rooms(search: Sequence[str] | None = None, *, root: Path = OUR_ROOT) -> None:
    """Refuse to start when another distribution owns one of the rooms' names.

    Reads installed file lists only in folders that hold a package of such a name.

    Args:
        search: folders that Python imports from; None means `sys.path`.
        root: the folder that holds our own rooms.

    Raises:
        RoomError: names the room, the other distribution or folder, and the way out.
    """
    before_ours = True
    for folder in dict.fromkeys(Path(entry or ".").resolve() for entry in search or sys.path):
        rooms = [room for room in ROOMS if _is_package(folder, room)]
        for room, owner in _claims(folder, rooms):
            if owner != DISTRIBUTION:
                raise _clash(room, f"the distribution '{owner}'", folder)
        if folder == root:
            before_ours = False
        elif rooms and before_ours and not _is_ours(folder):
            raise _clash(rooms[0], "a package", folder)


def _is_package(folder: Path, room: str) -> bool:
    return (folder / room / "__init__.py").exists() or (folder / f"{room}.py").exists()


def _claims(folder: Path, rooms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (room, distribution) for each installed distribution in `folder` that owns a room.

    Searches the raw lists: parsing those of a hundred distributions takes half a second.
    """
    if not rooms:
        return
    claim = re.compile(rb"\n(" + "|".join(rooms).encode() + rb")(?:/|\.py\b)")
    for pattern in ("*.dist-info/RECORD", "*.egg-info/SOURCES.txt"):
        for record in folder.glob(pattern):
            found = claim.search(b"\n" + record.read_bytes())
            if found:
                yield found[1].decode(), _distribution(record.parent)


def _distribution(metadata: Path) -> str:
    name = metadata.name.removesuffix(".dist-info").removesuffix(".egg-info").split("-")[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_ours(folder: Path) -> bool:
    """Tell whether `folder` is another copy of this project, such as an unpacked bundle."""
    return all(_is_package(folder, room) for room in ROOMS)


def _clash(room: str, owner: str, folder: Path) -> RoomError:
    return RoomError(
        f"the package name '{room}' is also used by {owner} in {folder}",
        hint=f"Install {DISTRIBUTION} on its own: `pipx install {DISTRIBUTION}`, "
        f"`uv tool install {DISTRIBUTION}`, or a virtual environment of its own.",
    )
