"""All that a server cannot get back by itself in one file, and a server made from that file.

    backup.json          format, time, name
    server_config.json   keys/   tls/   onion/hs*/
    nodes.sqlite   intake.sqlite   superlink.db
    registry/   gate/   rounds/

Whoever has the file can be the server: it is written for the operator alone (0600) and belongs
where nobody else looks. Neither base model nor logs are in it, nor updates that were not merged.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path, PurePosixPath

from federation import durable
from federation.errors import ConfigError, UsageError
from server.config import ServerHome, load_config
from server.onion_clients import OnionClients

FORMAT = 1
NOTE = "backup.json"
FOLDERS = ("keys", "tls", "registry", "gate", "rounds", "memory")
DATABASES = ("nodes.sqlite", "intake.sqlite", "superlink.db")


def back_up(home: ServerHome, target: Path, *, now: datetime) -> int:
    """Write the backup `target`; the server may be up. Returns its size in bytes.

    Raises:
        UsageError: there is a file already.
        ConfigError: no server has been set up.
    """
    config = load_config(home)
    if target.exists():
        raise UsageError(f"{target} exists already", hint="Name another file.")
    note = {"format": FORMAT, "made_at": now.isoformat(timespec="seconds"), "name": config.name}
    folder = durable.make_folder(target.absolute().parent)
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=folder)  # 0600
    try:
        with OnionClients(home.onion, config.onion_clients).lock(), os.fdopen(handle, "wb") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                _fill(archive, home, json.dumps(note))
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    durable.sync_folder(folder)
    return target.stat().st_size


def restore(home: ServerHome, source: Path) -> None:
    """Make the server of the backup `source` in a home that does not exist or is empty.

    Raises:
        UsageError: there is something already, or no such file.
        ConfigError: the file is no whole backup; nothing is left of it.
    """
    if home.root.exists() and (not home.root.is_dir() or any(home.root.iterdir())):
        raise UsageError(f"{home.root} is not empty", hint="Name another folder with --home.")
    if not source.is_file():
        raise UsageError(f"there is no file {source}")
    durable.make_folder(home.root.parent)
    draft = Path(tempfile.mkdtemp(dir=home.root.parent, prefix=f".{home.root.name}-"))
    try:
        _unpack(source, draft)
        load_config(ServerHome(draft))
        draft.replace(home.root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(archive: tarfile.TarFile, home: ServerHome, note: str) -> None:
    _add_bytes(archive, NOTE, note.encode())
    for path in _files(home):
        _add(archive, path, path.relative_to(home.root))
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".backup-") as scratch:
        for name in DATABASES:
            if (home.root / name).exists():
                _copy_database(home.root / name, Path(scratch) / name)
                _add(archive, Path(scratch) / name, Path(name))


def _files(home: ServerHome) -> Iterator[Path]:
    yield home.config
    shards = [path.name for path in home.onion.glob("hs*") if path.is_dir()]
    for folder in (*FOLDERS, *(f"{home.onion.name}/{name}" for name in shards)):
        yield from (path for path in sorted((home.root / folder).rglob("*")) if path.is_file())


def _copy_database(source: Path, target: Path) -> None:
    """A copy of one moment, though others may be writing."""
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def _add(archive: tarfile.TarFile, path: Path, name: Path) -> None:
    with path.open("rb") as file:
        about = tarfile.TarInfo(name.as_posix())
        about.size, about.mode = os.fstat(file.fileno()).st_size, durable.PRIVATE_FILE
        archive.addfile(about, file)


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(data), durable.PRIVATE_FILE
    archive.addfile(about, io.BytesIO(data))


def _unpack(source: Path, draft: Path) -> None:
    try:
        with tarfile.open(source, mode="r:") as archive:
            _require_format(archive)
            for member in archive.getmembers()[1:]:
                path = draft.joinpath(*_safe_parts(member))
                durable.make_folder(path.parent)
                content = archive.extractfile(member)
                if content is None:
                    raise ConfigError(f"{source} is damaged")
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, durable.PRIVATE_FILE)
                with content, os.fdopen(handle, "wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, OSError, EOFError) as err:
        raise ConfigError(f"{source} is not a whole backup: {err}") from err


def _require_format(archive: tarfile.TarFile) -> None:
    member = archive.next()
    content = archive.extractfile(member) if member is not None and member.name == NOTE else None
    if content is None:
        raise ConfigError("this is not a backup of a server")
    with content:
        note = json.load(content)
    if note.get("format", 0) > FORMAT:
        raise ConfigError(
            "this backup was made by a newer version",
            hint="Install the newer version of conscienceai.",
        )


def _safe_parts(member: tarfile.TarInfo) -> tuple[str, ...]:
    parts = PurePosixPath(member.name).parts
    if not member.isreg() or not parts or set(parts) & {"..", "/", ""}:
        raise ConfigError(f"a backup does not hold {member.name!r}")
    return parts
