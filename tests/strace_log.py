"""What strace saw of connections: whom each process called, and what of it was a leak."""

from __future__ import annotations

import ipaddress
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CALLS = ("connect", "sendto", "sendmsg", "sendmmsg")
DNS = 53
_CALL = re.compile(rf"^(?:\[pid +\d+\] |\d+ +)?({'|'.join(CALLS)})\(")
_FAMILY = re.compile(r"\{sa_family=(AF_\w+)")
_PORT = re.compile(r"sin6?_port=htons\((\d+)\)")
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
_PATH = re.compile(r'sun_path=(@?"[^"]*")')
# Families that reach this machine's kernel or another process of it, and nothing beyond.
LOCAL_FAMILIES = ("AF_UNIX", "AF_NETLINK", "AF_UNSPEC")


@dataclass(frozen=True)
class Attempt:
    """One call that names somebody.

    Attributes:
        family: "AF_INET", "AF_UNIX" …
        address: IP address, or the path of a socket.
    """

    call: str
    family: str
    address: str = ""
    port: int = 0

    @property
    def is_leak(self) -> bool:
        """Whether it goes beyond this machine, or asks for a name, wherever."""
        if self.family in LOCAL_FAMILIES:
            return False
        return self.port == DNS or not _is_loopback(self.address)


def wrap(prefix: Path) -> tuple[str, ...]:
    """Command line to put before another: every process of it writes to `prefix`.PID."""
    what = ("-s", "0", "-e", f"trace={','.join(CALLS)}")
    return ("strace", "-D", "-f", "-ff", "-qq", "--seccomp-bpf", *what, "-o", str(prefix))


def is_installed() -> bool:
    """Whether there is a strace."""
    return shutil.which("strace") is not None


def attempts(lines: Iterable[str]) -> Iterator[Attempt]:
    """Every call in `lines` that names somebody; sends on a connected socket name nobody."""
    for line in lines:
        call = _CALL.match(line)
        if call is None:
            continue
        # sendmmsg names one for each message
        for piece in re.split(r"(?=\{sa_family=)", line)[1:]:
            family = _FAMILY.match(piece)
            address, path, port = _ADDRESS.search(piece), _PATH.search(piece), _PORT.search(piece)
            where = (address[1] or address[2]) if address else path[1].strip('@"') if path else ""
            if family is not None:
                yield Attempt(call[1], family[1], where, int(port[1]) if port else 0)


def read(prefix: Path) -> list[Attempt]:
    """All attempts in the files `prefix`.PID."""
    found: list[Attempt] = []
    for path in sorted(prefix.parent.glob(f"{prefix.name}.*")):
        found += attempts(path.read_text(encoding="utf-8", errors="replace").splitlines())
    return found


def leaks(found: Iterable[Attempt]) -> list[Attempt]:
    """Those of `found` that are leaks, each once."""
    return list(dict.fromkeys(attempt for attempt in found if attempt.is_leak))


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
