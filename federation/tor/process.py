"""Our own tor: a program in a folder of its own, which is kept so that the next start is quick.

    <folder>/torrc, control_port, control_auth_cookie     0600
             data/        tor's state and directory cache
             auth/        our client keys to onion services
             transports/  links to pluggable transports with awkward paths

Two tors on one folder harm each other (the second overwrites `control_port` before it finds the
data locked), so who starts one holds the folder with `held` first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self

from federation import durable
from federation.errors import ConfigError, ConscienceError, TorError
from federation.language import _
from federation.processes import Child, RestartPolicy, Stop, Supervisor
from federation.tor import torrc
from federation.tor.bootstrap import Bootstrap, Watch
from federation.tor.control import PORT_FILE, Control, open_control
from federation.tor.keys import client_line
from federation.tor.program import find_program
from federation.tor.settings import TorSettings
from federation.tor.socks import SocksAddress

QUICK = RestartPolicy(first_s=0.4, longest_s=30.0)
LOOK_S = 1.0  # a look at a tor that is starting waits no longer for an answer
PAUSE_S = 0.1
ORPHAN_S = 20.0  # a tor whose owner was killed looks for it every 15 s
HELD_S = 60.0
MARGIN_S = 10.0  # after which a start ends by the supervisor's clock, without our sentence
KEPT_VARIABLES = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
REFUSED = "Failed to parse/validate config:"
Progress = Callable[[Bootstrap], None]


def held(folder: Path, timeout_s: float = HELD_S) -> AbstractContextManager[None]:
    """Keep every other command from starting a tor in `folder`, for the length of the block.

    Raises:
        ConscienceError: another one has held it for `timeout_s`.
    """
    busy = _("Another command is using the Tor of this folder.")
    return durable.locked(folder / "lock", timeout_s=timeout_s, busy=busy)


def prepare(folder: Path, text: str, settings: TorSettings) -> None:
    """Write what a tor in `folder` reads at its start. The caller has it `held`.

    Args:
        folder: absolute.
        text: the torrc.
        settings: whose transports are linked where tor could not run them.

    Raises:
        ConfigError: a transport's program or the file of further torrc lines is not there.
        TorError: a tor that somebody left behind does not end.
    """
    _end_orphan(folder)
    for path in (folder, folder / "data", folder / "auth"):
        durable.make_folder(path).chmod(durable.PRIVATE_FOLDER)  # tor insists
    for name, program in torrc.used_transports(settings).items():
        _require_file(program)
        if torrc.needs_link(program):
            link = durable.make_folder(folder / torrc.LINKS) / name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    if settings.torrc:
        _require_file(settings.torrc)
    durable.write_text(folder / "torrc", text)


def write_client_key(folder: Path, host: str, private: str) -> Path:
    """Put our key to the onion `host` where a tor in `folder` looks at its start; the only one."""
    path = durable.make_folder(folder / "auth") / "server.auth_private"
    durable.write_text(path, client_line(host, private) + "\n")
    return path


def tor_child(
    folder: Path,
    program: Path,
    settings: TorSettings,
    *,
    log_path: Path,
    on_progress: Progress = lambda _seen: None,
    name: str = "tor",
) -> Child:
    """A tor for a supervisor, in a folder that is `held` and has been through `prepare`.

    It is ready once bootstrapped. A first start that takes longer than the settings allow is a
    TorError that says how far it came; a torrc that tor refuses is one that names the line.
    """
    watch = Watch(settings.start_s, on_progress)
    owner = ("__OwningControllerProcess", str(os.getpid()))  # tor ends when that process is gone
    return Child(
        name,
        [
            str(program),
            *("--defaults-torrc", os.devnull),  # a distribution's own settings are not ours
            *("-f", str(folder / "torrc")),
            *owner,
        ],
        {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ},
        log_path,
        ready=lambda: watch.note(_look(folder)),
        restart=QUICK,
        judge=_judge,
        cwd=folder,
        ready_within_s=settings.start_s + MARGIN_S,
    )


def client_child(
    folder: Path,
    settings: TorSettings,
    keys: Mapping[str, str],
    on_progress: Progress = lambda _seen: None,
) -> Child:
    """A volunteer's tor for a supervisor, in a folder that is `held`.

    Args:
        folder: absolute; prepared here.
        settings: of the node.
        keys: onion host -> our private key to it; one at most.
        on_progress: told of every step of its start.

    Raises:
        ConfigError: as `client_torrc` and `prepare`.
        TorError: there is no tor program.
    """
    program = find_program(settings.program)
    prepare(folder, torrc.client_torrc(folder, settings), settings)
    for host, private in keys.items():
        write_client_key(folder, host, private)
    log_path = folder / "tor.log"
    return tor_child(folder, program, settings, log_path=log_path, on_progress=on_progress)


def wait_bootstrapped(
    control: Control, start_s: float, on_progress: Progress = lambda _seen: None
) -> None:
    """Wait until a running tor can be used.

    Raises:
        TorError: it cannot after `start_s`; percent, tag and summary of its last step are named.
    """
    watch = Watch(start_s, on_progress)
    while not watch.note(control.bootstrap()):
        time.sleep(PAUSE_S)


class OwnSocks:
    """Where the SOCKS port of the tor in `folder` listens now: it is another after every start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: tuple[int, SocksAddress] | None = None

    def __call__(self) -> SocksAddress:
        """The present address.

        Raises:
            TorError: tor is not running.
        """
        with suppress(OSError):
            written = (self._folder / PORT_FILE).stat().st_mtime_ns
            if self._known is not None and self._known[0] == written:
                return self._known[1]
            with open_control(self._folder, answer_s=LOOK_S) as control:
                for text in control.socks():
                    self._known = (written, SocksAddress.parse(text, is_extended=True))
                    return self._known[1]
        raise TorError(_("Tor is not running."))


class OwnTor:
    """A client's tor for the length of a block: the node's own if it runs, else one started here.

    Args:
        folder: absolute; a client's tor lives there.
        settings: of the node.
        keys: onion host -> our private key to it; one at most.
        on_progress: told of every step of its start.
    """

    def __init__(
        self,
        folder: Path,
        settings: TorSettings,
        *,
        keys: Mapping[str, str] | None = None,
        on_progress: Progress = lambda _seen: None,
    ) -> None:
        self.socks = OwnSocks(folder)
        self._folder, self._settings = folder, settings
        self._keys, self._on_progress = dict(keys or {}), on_progress
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        deadline = time.monotonic() + self._settings.start_s
        while not (self._start() or self._share()):
            if time.monotonic() > deadline:
                raise TorError(_("Another command's Tor does not start."))
            time.sleep(PAUSE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> bool:
        """Start it, unless somebody else holds the folder."""
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self._folder, timeout_s=0.0))
            except ConscienceError:
                return False
            supervisor = Supervisor(
                [client_child(self._folder, self._settings, self._keys, self._on_progress)]
            )
            stack.callback(supervisor.stop)
            supervisor.start()
            self._stack = stack.pop_all()
        return True

    def _share(self) -> bool:
        """Use the one that somebody else runs, if it answers by now."""
        try:
            control = open_control(self._folder)
        except TorError:
            return False
        with control:
            wait_bootstrapped(control, self._settings.start_s, self._on_progress)
            for host, private in self._keys.items():
                if not control.has_client_key(host):
                    control.add_client_key(host, private)
        return True


def _look(folder: Path) -> Bootstrap | None:
    try:
        with open_control(folder, answer_s=LOOK_S) as control:
            return control.bootstrap()
    except TorError:
        return None


def _judge(_child: Child, tail: str) -> Stop | None:
    """A torrc that tor refuses is not tried again."""
    for line in tail.splitlines():
        if REFUSED in line:
            why = line.partition(REFUSED)[2].strip()
            return Stop(
                _("Tor does not accept its settings: {why}").format(why=why),
                TorError,
                _("See the part 'tor' of the settings."),
            )
    return None


def _end_orphan(folder: Path) -> None:
    """End a tor whose supervisor was killed; nobody else starts one, as the folder is held."""
    deadline = time.monotonic() + ORPHAN_S
    while (folder / PORT_FILE).exists():
        try:
            with open_control(folder, answer_s=LOOK_S) as left:
                left.halt()
        except TorError:
            break
        if time.monotonic() > deadline:
            raise TorError(_("An earlier Tor of this folder does not end."))
        time.sleep(PAUSE_S)
    (folder / PORT_FILE).unlink(missing_ok=True)  # the port in it may soon be somebody else's


def _require_file(path: str) -> None:
    if not Path(path).is_file():
        raise ConfigError(_("There is no file {path}, which the settings name.").format(path=path))
