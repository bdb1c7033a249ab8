"""`flower-server up`: SuperLink, executor and gateway as children of one process."""

from __future__ import annotations

import json
import os
import shlex
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from federation import durable
from federation.errors import ProcessError
from federation.flower_env import ONE_HEAP
from federation.invitation import HEALTH_PATH
from federation.leash import GRACE_S
from federation.processes import Child, Supervisor, free_port, is_listening
from server import ca
from server.config import ServerConfig, ServerHome, save_config
from server.control import environment, program, write_connection
from server.starting import require_ready

SHIM = (sys.executable, "-P", "-m", "server.shim")
PROBE_S = 2.0
PAUSE_S = 0.2
READY_S = 180.0
PATIENCE_S = 90.0
ORPHANS_S = 2 * GRACE_S


@dataclass(frozen=True)
class Running:
    """A server that is up."""

    pid: int
    gateway: str
    superlink_port: int
    started_at: float


class Liveness:
    """A probe that fails only after a time without any answer: a busy machine is not a dead one."""

    def __init__(
        self,
        probe: Callable[[], bool],
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._patience_s = patience_s
        self._clock = clock
        self._silent_since: float | None = None

    def __call__(self) -> bool:
        """Probe once; False when nothing was heard for the whole patience."""
        if self._probe():
            self._silent_since = None
            return True
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since < self._patience_s:
            return True
        self._silent_since = None
        return False


def up(home: ServerHome, *, announce: Callable[[Running], None]) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        home: a server that `init` has set up.
        announce: called once, when everything answers.

    Raises:
        ConfigError: not set up.
        PermissionsError: a private file is open to others.
        ConscienceError: it is up already.
        ProcessError: a port is taken or a child did not start.
    """
    config = require_ready(home)
    # Flower makes its own files; none of them is anybody else's business.
    before = os.umask(0o077)
    busy = f"the server at {home.root} is up already"
    try:
        with durable.locked(home.up_lock, timeout_s=0.0, busy=busy):
            _run(home, _prepare(home, config), announce)
    finally:
        os.umask(before)


def running(home: ServerHome) -> Running | None:
    """The server that is up at `home`, if any."""
    try:
        content = json.loads(home.running.read_text(encoding="utf-8"))
        found = Running(**content)
    except (OSError, ValueError, TypeError):
        return None
    return found if _is_alive(found) else None


def children(home: ServerHome, config: ServerConfig) -> list[Child]:
    """The three processes, in the order they start."""
    files = ca.TlsFiles(home.tls)
    shared = environment(home)
    host = _dialled(config.gateway_host)
    superlink = f"127.0.0.1:{config.superlink_port}"
    secret = ("--superexec-auth-secret-file", str(home.superexec_secret))
    return [
        Child(
            name="superlink",
            argv=[
                str(program("flower-superlink")),
                *("--host", "127.0.0.1", "--port", str(config.superlink_port)),
                *("--ssl-ca-certfile", str(files.ca_certificate)),
                *("--ssl-certfile", str(files.certificate), "--ssl-keyfile", str(files.key)),
                "--enable-supernode-auth",
                *("--database", str(home.superlink_db)),
                *("--isolation", "process"),
                *secret,
                "--disable-runtime-dependency-installation",
            ],
            env=shared,
            log_path=home.logs / "superlink.log",
            ready=lambda: answers(files, config.superlink_port),
            alive=Liveness(lambda: answers(files, config.superlink_port)),
            cwd=home.root,
            ready_within_s=READY_S,
        ),
        Child(
            name="superexec",
            argv=[
                *SHIM,
                "flower-superexec",
                *("--runtime-api-address", superlink),
                *("--root-certificates", str(files.ca_certificate)),
                *secret,
            ],
            env=shared
            | ONE_HEAP
            | {"PATH": f"{home.commands}{os.pathsep}{shared.get('PATH', '')}"},
            log_path=home.logs / "superexec.log",
            cwd=home.root,
        ),
        Child(
            name="gateway",
            argv=[sys.executable, "-P", "-m", "server.gateway", "--home", str(home.root)],
            env=shared,
            log_path=home.logs / "gateway.log",
            ready=lambda: answers(files, config.gateway_port, host),
            alive=Liveness(lambda: is_listening(config.gateway_port, host)),
            cwd=home.root,
            ready_within_s=READY_S,
        ),
    ]


def answers(files: ca.TlsFiles, port: int, host: str = "127.0.0.1") -> bool:
    """Whether our process behind a port of this machine answers `/health` over our TLS."""
    trust = ssl.create_default_context(cafile=str(files.ca_certificate))
    # The address listened on need not be a name that nodes dial; the authority is ours alone.
    trust.check_hostname = False
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    )
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}{HEALTH_PATH}"
    try:
        with opener.open(url, timeout=PROBE_S) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _run(home: ServerHome, config: ServerConfig, announce: Callable[[Running], None]) -> None:
    try:
        Supervisor(children(home, config)).run(_announcing(home, config, announce))
    finally:
        home.running.unlink(missing_ok=True)


def _prepare(home: ServerHome, config: ServerConfig) -> ServerConfig:
    """Renew the certificate, settle the ports, write what the children read."""
    ca.renew(ca.TlsFiles(home.tls), addresses=config.addresses, now=datetime.now(UTC))
    if home.running.exists():  # the last server was killed, and its leash may still be at work
        _await_orphans(config)
    if is_listening(config.gateway_port, _dialled(config.gateway_host)):
        raise ProcessError(
            f"port {config.gateway_port} is taken, and invitations name it",
            hint="End what uses it; another server of yours may still be up.",
        )
    if is_listening(config.superlink_port):
        config = config.model_copy(update={"superlink_port": free_port()})
        save_config(home, config)
    write_connection(home, config.superlink_port)
    _write_commands(home)
    return config


def _await_orphans(config: ServerConfig, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait, not for ever, until nothing of a killed server listens any more."""
    places = [(config.gateway_port, _dialled(config.gateway_host))]
    places.append((config.superlink_port, "127.0.0.1"))
    deadline = clock() + ORPHANS_S
    while any(is_listening(*place) for place in places) and clock() < deadline:
        time.sleep(PAUSE_S)


def _write_commands(home: ServerHome) -> None:
    line = " ".join(shlex.quote(part) for part in (*SHIM, "flwr-serverapp"))
    script = f'#!/bin/sh\nexec {line} "$@"\n'
    durable.write_bytes(home.commands / "flwr-serverapp", script.encode(), mode=0o700)


def _announcing(
    home: ServerHome, config: ServerConfig, announce: Callable[[Running], None]
) -> Callable[[], None]:
    waiting = [True]

    def each() -> None:
        if waiting.pop() if waiting else False:
            address = f"{config.gateway_host}:{config.gateway_port}"
            now = Running(os.getpid(), address, config.superlink_port, time.time())
            content: dict[str, Any] = vars(now)
            durable.write_text(home.running, json.dumps(content) + "\n")
            announce(now)

    return each


def _dialled(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 (comparison only)


def _is_alive(server: Running) -> bool:
    """Whether it is that very process: after a crash its number may be another's, or a zombie's."""
    import psutil

    try:
        process = psutil.Process(server.pid)
        has_ended = process.status() == psutil.STATUS_ZOMBIE
        return not has_ended and process.create_time() <= server.started_at
    except psutil.Error:
        return False
