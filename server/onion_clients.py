"""Who may reach the onion service: a key file for each volunteer, shared out over addresses.

    onion/hs0/  hs_ed25519_secret_key …      its address; hs1, hs2 … where one is not enough
                authorized_clients/*.auth    one key each, and a sentinel that nobody can use
                retires_at                   only after a rotation: Unix seconds

tor opens a service to everybody if its folder holds no valid key file, and passes over a file it
cannot read. So there is always a sentinel, files are written whole, and `require_closed` stands
before every start and reload. Files only: who runs tor is `server.onion`. Callers hold `lock`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from federation import durable
from federation.errors import ConfigError
from federation.tor.address import make_address, read_address
from federation.tor.keys import ClientKey, new_client_key, service_line

PORT = 443  # that visitors of an address name
MOST_CLIENTS = 300  # 350 keys fit into a descriptor, 380 do not, and tor says so in its log only
LOCK_S = 60.0
CLIENTS, RETIRES = "authorized_clients", "retires_at"
SENTINEL, TRIAL = "sentinel.auth", "trial.auth"
_SHARD = re.compile(r"hs(\d{1,6})")
_LINE = re.compile(r"descriptor:x25519:([A-Z2-7]{52})\n?")


@dataclass(frozen=True)
class Shard:
    """One address of the server, in its HiddenServiceDir.

    Attributes:
        retires_at: Unix seconds when it is given up; 0 means that it is in use.
    """

    folder: Path
    retires_at: float = 0.0

    @property
    def host(self) -> str:
        """Its address without the port."""
        return read_address(self.folder)

    @property
    def is_current(self) -> bool:
        """Whether new volunteers may be put here."""
        return not self.retires_at

    @property
    def volunteers(self) -> int:
        """How many may enter by this address."""
        return len(self._files()) - sum(self.path(name).exists() for name in (SENTINEL, TRIAL))

    def path(self, file: str) -> Path:
        """Where the key file `file` lies or would lie."""
        return self.folder / CLIENTS / file

    def put(self, file: str, key: ClientKey) -> None:
        """Let the holder of `key` in."""
        durable.write_text(self.path(file), service_line(key.public) + "\n")

    def new_sentinel(self) -> None:
        """Put a key there whose private half is kept nowhere; a new one changes the descriptor."""
        self.put(SENTINEL, new_client_key())

    def require_closed(self) -> None:
        """Check that this folder opens the service to its volunteers alone.

        Raises:
            ConfigError: no key file, a malformed one, or more than a descriptor holds.
        """
        files = self._files()
        if not files:
            raise ConfigError(
                f"{self.folder / CLIENTS} is empty: the onion service would be open to everybody",
                hint=f"Restore a backup. Without one, delete {self.folder} and invite anew.",
            )
        for path in files:
            if not _is_well_formed(path):
                raise ConfigError(
                    f"{path} is not a client key, and tor would pass over it",
                    hint="Restore it from a backup, or delete it and invite that volunteer again.",
                )
        if self.volunteers > MOST_CLIENTS:
            raise ConfigError(
                f"{self.folder / CLIENTS} holds more than {MOST_CLIENTS} keys",
                hint="Ban somebody, or delete key files and invite those volunteers again.",
            )

    def _files(self) -> list[Path]:
        return sorted((self.folder / CLIENTS).glob("*.auth"))


class OnionClients:
    """All addresses of a server and the keys to them.

    Args:
        root: the server's onion folder.
        most: volunteers on one address.
    """

    def __init__(self, root: Path, most: int) -> None:
        self.root = root
        self._most = most

    @contextmanager
    def lock(self, timeout_s: float = LOCK_S) -> Iterator[None]:
        """Keep every other command from changing keys or reloading tor."""
        busy = "another command is changing the onion service"
        with durable.locked(self.root / ".lock", timeout_s=timeout_s, busy=busy):
            yield

    def shards(self) -> list[Shard]:
        """Every address, the oldest first."""
        if not self.root.is_dir():
            return []
        matches = ((_SHARD.fullmatch(path.name), path) for path in self.root.iterdir())
        numbered = sorted((int(match.group(1)), path) for match, path in matches if match)
        return [Shard(path, _retires_at(path)) for _number, path in numbered]

    def current(self) -> list[Shard]:
        """The addresses in use."""
        return [shard for shard in self.shards() if shard.is_current]

    def holder(self, name: str) -> Shard | None:
        """The address in use that has a key of the volunteer `name`."""
        file = file_of(name)
        return next((s for s in self.current() if s.path(file).exists()), None)

    def successor(self, name: str) -> str:
        """The host that `name` should move to; "" if no address of theirs is about to go."""
        new = self.holder(name)
        is_leaving = any(not s.is_current and s.path(file_of(name)).exists() for s in self.shards())
        return new.host if new is not None and is_leaving else ""

    def grant(self, name: str) -> tuple[Shard, str]:
        """Let `name` in by a new key, which replaces an earlier one.

        Returns:
            The address, and the private half of the key.
        """
        key = new_client_key()
        shard = self.holder(name) or self._roomy() or self._new()
        shard.put(file_of(name), key)
        return shard, key.private

    def remove(self, name: str) -> list[Shard]:
        """Take the keys of `name` away; the addresses that had one."""
        held = [shard for shard in self.shards() if shard.path(file_of(name)).exists()]
        for shard in held:
            shard.path(file_of(name)).unlink()
        return held

    def require_closed(self) -> None:
        """`Shard.require_closed` of every address.

        Raises:
            ConfigError: as there, or there is no address.
        """
        if not self.current():
            raise ConfigError(
                f"there is no onion address in {self.root}", hint="flower-server init"
            )
        for shard in self.shards():
            shard.require_closed()

    def settle(self) -> None:
        """Make the first address if there is none yet."""
        if not self.current():
            self._new()

    def rotate(self, *, retires_at: float) -> list[tuple[Shard, Shard]]:
        """Replace each address in use by a new one with the same keys; the old one retires.

        Returns:
            Old and new, as they were before the old ones retired.
        """
        moved = [(old, self._new(old)) for old in self.current()]
        for old, _new in moved:
            durable.write_text(old.folder / RETIRES, f"{retires_at:.3f}\n")
        return moved

    def take_back(self, moved: Iterable[tuple[Shard, Shard]]) -> None:
        """Undo a rotation: the old addresses are in use again."""
        for old, new in moved:
            (old.folder / RETIRES).unlink(missing_ok=True)
            shutil.rmtree(new.folder)

    def drop_retired(self, now: float) -> bool:
        """Give up the addresses whose time is over; whether there were any."""
        over = [s for s in self.shards() if not s.is_current and s.retires_at <= now]
        for shard in over:
            shutil.rmtree(shard.folder)
        return bool(over)

    def _roomy(self) -> Shard | None:
        return next((s for s in self.current() if s.volunteers < self._most), None)

    def _new(self, like: Shard | None = None) -> Shard:
        """Make an address, with the volunteers of `like`; it appears whole or not at all."""
        numbers = [int(shard.folder.name.removeprefix("hs")) for shard in self.shards()]
        name = f"hs{max(numbers, default=-1) + 1}"
        draft = Shard(self.root / f".{name}.new")
        shutil.rmtree(draft.folder, ignore_errors=True)
        durable.make_folder(draft.folder / CLIENTS)
        make_address(draft.folder)
        if like is not None:
            for path in like.path("").glob("*.auth"):
                if path.name != TRIAL:
                    durable.write_bytes(draft.path(path.name), path.read_bytes())
        draft.new_sentinel()
        return Shard(draft.folder.rename(self.root / name))


def file_of(name: str) -> str:
    """Name of a volunteer's key file: readable, safe, and one for each name."""
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower())[:24].strip("-")
    return f"{readable or 'node'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}.auth"


def _retires_at(folder: Path) -> float:
    path = folder / RETIRES
    if not path.exists():
        return 0.0
    try:
        return float(path.read_text(encoding="ascii"))
    except ValueError as err:
        raise ConfigError(f"{path} holds no time") from err


def _is_well_formed(path: Path) -> bool:
    try:
        match = _LINE.fullmatch(path.read_text(encoding="ascii"))
        return match is not None and bool(service_line(match.group(1)))
    except (OSError, ValueError):
        return False
