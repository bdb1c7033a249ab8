"""Keys of the authorities of private Tor networks: a second each to make, so they are kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tor_process import bare_environment, tor_command

from federation import durable

PASSPHRASE = b"kept nowhere else\n"
MONTHS = "12"
SPARE = timedelta(days=2)  # a certificate that ends sooner is made anew


@dataclass(frozen=True)
class Identity:
    """The two fingerprints by which every torrc names an authority."""

    relay: str
    v3: str


def cache_folder() -> Path:
    """This user's cache, shared by every checkout of this machine."""
    return Path(tempfile.gettempdir()) / f"conscience-tor-keys-{os.getuid()}"


def copy_keys(name: str, folder: Path, cache: Path) -> Identity:
    """Put the keys of authority `name` into the data folder `folder`, made once per machine.

    They do not depend on ports, so any number of networks may use the same ones at a time.
    """
    with durable.locked(cache / "lock", timeout_s=120):
        kept = cache / name
        if not _is_fresh(kept):
            shutil.rmtree(kept, ignore_errors=True)
            _make(name, durable.make_folder(kept))
        shutil.copytree(kept / "keys", durable.make_folder(folder) / "keys", dirs_exist_ok=True)
    relay = (kept / "relay").read_text(encoding="ascii")
    return Identity(relay, _stated(kept, "fingerprint"))


def _make(name: str, folder: Path) -> None:
    keys = durable.make_folder(folder / "keys")
    files = [
        *("-i", str(keys / "authority_identity_key")),
        *("-s", str(keys / "authority_signing_key")),
        *("-c", str(keys / "authority_certificate")),
    ]
    # Without -a: an address in the certificate would take the place of that in every torrc.
    generate = ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", MONTHS]
    _run([*generate, *files], PASSPHRASE)
    listed = _run(
        [
            *tor_command(),
            *("--ignore-missing-torrc", "-f", str(folder / "none"), "--list-fingerprint"),
            *("--orport", "1", "--datadirectory", str(folder), "--nickname", name, "--quiet"),
        ]
    )
    # the last line: "<nickname> 4F2A 9C11 ..."; written last, it says that all is there
    durable.write_text(folder / "relay", "".join(listed.splitlines()[-1].split()[1:]))


def _is_fresh(folder: Path) -> bool:
    if not (folder / "relay").exists():
        return False
    ends = datetime.fromisoformat(_stated(folder, "dir-key-expires"))
    return ends.replace(tzinfo=UTC) > datetime.now(UTC) + SPARE


def _stated(folder: Path, keyword: str) -> str:
    """The value of a line of the authority's certificate."""
    text = (folder / "keys" / "authority_certificate").read_text(encoding="ascii")
    lines = (line.split(" ", 1) for line in text.splitlines())
    return next(line[1] for line in lines if line[0] == keyword)


def _run(command: list[str], answer: bytes = b"") -> str:
    done = subprocess.run(
        command, input=answer, env=bare_environment(), capture_output=True, timeout=60, check=True
    )
    return done.stdout.decode().strip()
