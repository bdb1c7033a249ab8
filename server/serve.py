"""`flower-server up`: tor, SuperLink, executor and gateway as children of one process.

Rounds on this machine do not depend on the onion service: tor is started first and everything else
beside it. `up` announces itself when the service is reachable, or with the reason why it is not.
"""

from __future__ import annotations

import json
import os
import shlex
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from federation import durable
from federation.errors import ProcessError
from federation.flower_env import ONE_HEAP
from federation.invitation import HEALTH_PATH
from federation.leash import GRACE_S
from federation.processes import Child, Supervisor, free_port, is_listening
from federation.tor.process import held, prepare, tor_child
from federation.tor.program import find_program
from server import ca
from server.alive import is_alive
from server.config import ServerConfig, ServerHome, save_config
from server.control import environment, program, write_connection
from server.onion import Onion
from server.onion_tor import is_answering
from server.onion_watch import OnionWatch
from server.starting import require_ready

SHIM = (sys.executable, "-P", "-m", "server.shim")
PROBE_S = 2.0
PAUSE_S = 0.2
READY_S = 180.0
PATIENCE_S = 90.0
ORPHANS_S = 2 * GRACE_S


@dataclass(frozen=True)
class Running:
    """A server that is up.

    Attributes:
        onion: state of the onion service when it was announced; "" for a server without one.
    """

    pid: int
    gateway: str
    superlink_port: int
    started_at: float
    onion: str = ""


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


def up(
    home: ServerHome,
    *,
    announce: Callable[[Running], None],
    say: Callable[[str], None] = lambda _line: None,
) -> None:
    """Run the server until SIGTERM or SIGINT.

    Args:
        home: a server that `init` has set up.
        announce: called once, when everything answers and it is known how the start of the onion
            service went: reachable, or degraded after `tor.start_s` at the latest.
        say: told how far the onion service has come.

    Raises:
        ConfigError: not set up, or the onion service would be open to everybody.
        PermissionsError: a private file is open to others.
        ConscienceError: it is up already.
        TorError: there is no tor program.
        ProcessError: a port is taken or a child did not start.
    """
    config = require_ready(home)
    # Flower makes its own files; none of them is anybody else's business.
    before = os.umask(0o077)
    busy = f"the server at {home.root} is up already"
    try:
        with durable.locked(home.up_lock, timeout_s=0.0, busy=busy):
            config = _prepare(home, config)
            with _onion(home, config, say) as (tor, watch):
                _run(home, config, tor, _Herald(home, config, watch, announce))
    finally:
        os.umask(before)


def running(home: ServerHome) -> Running | None:
    """The server that is up at `home`, if any."""
    try:
        content = json.loads(home.running.read_text(encoding="utf-8"))
        found = Running(**content)
    except (OSError, ValueError, TypeError):
        return None
    return found if is_alive(found.pid, found.started_at) else None


def children(home: ServerHome, config: ServerConfig) -> list[Child]:
    """The three processes beside tor, in the order they start."""
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


def answers(
    files: ca.TlsFiles, port: int, host: str = "127.0.0.1", *, timeout_s: float = PROBE_S
) -> bool:
    """Whether our process behind a port of this machine answers `/health` over our TLS."""
    trust = ssl.create_default_context(cafile=str(files.ca_certificate))
    # The address listened on need not be a name that nodes dial; the authority is ours alone.
    trust.check_hostname = False
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
    )
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}{HEALTH_PATH}"
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def _onion(
    home: ServerHome, config: ServerConfig, say: Callable[[str], None]
) -> Iterator[tuple[Sequence[Child], OnionWatch | None]]:
    """Make the onion folder ready and watch it; gives the tor to start."""
    if not config.onion:
        yield [], None
        return
    onion = Onion(home, config)
    torrc = onion.prepare()
    with held(home.onion):
        prepare(home.onion, torrc, config.tor)
        made = tor_child(
            home.onion,
            find_program(config.tor.program),
            config.tor,
            log_path=home.logs / "tor.log",
        )
        tor = replace(
            made,
            ready=None,
            may_restart=lambda: not onion.problem(),
            alive=Liveness(lambda: is_answering(home.onion)),
        )
        with OnionWatch(onion, pid=os.getpid(), start_s=config.tor.start_s, say=say) as watch:
            yield [tor], watch


def _run(home: ServerHome, config: ServerConfig, tor: Sequence[Child], herald: _Herald) -> None:
    try:
        Supervisor([*tor, *children(home, config)]).run(herald.look)
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


class _Herald:
    """Writes `running.json` when everything answers, and announces once there is no more to see."""

    def __init__(
        self,
        home: ServerHome,
        config: ServerConfig,
        watch: OnionWatch | None,
        announce: Callable[[Running], None],
    ) -> None:
        self._home = home
        self._config = config
        self._watch = watch
        self._announce = announce
        self._server: Running | None = None
        self._is_done = False

    def look(self) -> None:
        if self._server is None:
            address = f"{self._config.gateway_host}:{self._config.gateway_port}"
            port = self._config.superlink_port
            self._server = Running(os.getpid(), address, port, time.time())
            durable.write_text(self._home.running, json.dumps(asdict(self._server)) + "\n")
        state = None if self._watch is None else self._watch.state
        if not self._is_done and (state is None or state.is_settled):
            self._is_done = True
            self._announce(replace(self._server, onion="" if state is None else str(state)))


def _dialled(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 (comparison only)
