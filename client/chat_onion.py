"""The chat's own onion service: this node's page, for its owner's other devices and nobody else.

It has nothing to do with the server's: a tor, an address and a key of its own, in `chat-onion/`. A
service without a visitor's key is not made at all. Address and key stay the same from one start to
the next, so that a visitor's bookmark and key stay good; deleting the folder makes new ones.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from federation import durable, settings
from federation.errors import ConfigError, TorError
from federation.language import _
from federation.tor import address
from federation.tor.bootstrap import Bootstrap
from federation.tor.control import open_control
from federation.tor.keys import client_line, key_of, new_client_key
from federation.tor.process import OwnTor
from federation.tor.settings import TorSettings

logger = logging.getLogger(__name__)

PORT = (
    80  # Tor Browser takes plain HTTP to an onion for secure: Tor encrypts and names the other end
)
LOOK_S = 5.0
LONGEST_PAUSE_S = 60.0
VISITOR = "visitor.key"


@dataclass(frozen=True)
class Visit:
    """What a visitor needs; for a terminal, never for a log.

    Attributes:
        url: of the page.
        key: private, as Tor Browser asks for it.
        line: the same for a tor: a file `*.auth_private` in its ClientOnionAuthDir.
    """

    url: str = field(repr=False)
    key: str = field(repr=False)
    line: str = field(repr=False)


class ChatOnion:
    """Publishes the chat at 127.0.0.1:`port` for the length of a block, and again if tor dies.

    Args:
        folder: the service's own.
        tor: settings of the node's tor: program, bridges, time to start.
        port: the chat's.
        say: told how far tor has come, and of outages; never an address.
    """

    def __init__(
        self,
        folder: Path,
        tor: TorSettings,
        port: int,
        say: Callable[[str], None],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._folder, self._tor, self._say = folder, tor, say
        self._target, self._look_s = f"127.0.0.1:{port}", look_s
        self._address = folder / "address"
        self._visitor = _visitor_key(folder / VISITOR)
        self._host = _host(self._address)
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="chat onion", daemon=True)
        self._service = ExitStack()

    @property
    def visit(self) -> Visit:
        """Address and key, to be shown once to the person at the terminal."""
        return Visit(f"http://{self._host}/", self._visitor, client_line(self._host, self._visitor))

    def __enter__(self) -> Self:
        self._publish()
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._keeper.join()
        self._service.close()

    def _publish(self) -> None:
        """Start tor and publish.

        Raises:
            TorError: tor does not start, or the descriptor reaches no directory.
        """

        def progress(seen: Bootstrap) -> None:
            self._say(_("Tor is starting: {step}").format(step=seen))

        with ExitStack() as stack:
            folder = self._folder / "tor"
            stack.enter_context(OwnTor(folder, self._tor, on_progress=progress))
            control = stack.enter_context(open_control(folder))
            with control.uploads(self._host) as uploads:
                who = [key_of(self._visitor).public]
                control.add_onion(PORT, self._target, who, address.control_key(self._address))
                uploads.wait()
            self._control = control
            self._service = stack.pop_all()

    def _keep(self) -> None:
        """Look at tor from time to time; start anew what has died."""
        is_up, pause_s = True, self._look_s
        while not self._done.wait(pause_s):
            if is_up and self._is_alive():
                continue
            if is_up:
                self._say(_("The chat cannot be reached over Tor; Tor is started again."))
                self._service.close()
            try:
                self._publish()
            except TorError as err:
                logger.warning("the chat's onion service: %s", err)
                is_up, pause_s = False, min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                is_up, pause_s = True, self._look_s
                self._say(_("The chat can be reached over Tor again."))

    def _is_alive(self) -> bool:
        try:
            self._control.info("version")
        except TorError:
            return False
        return True


def _visitor_key(path: Path) -> str:
    """The visitors' private key, made at the first start.

    Raises:
        ConfigError: it is damaged.
        PermissionsError: it is open to other users.
    """
    if not path.exists():
        durable.write_text(path, new_client_key().private + "\n")
    settings.require_private(path)
    key = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        return key_of(key).private
    except ValueError as err:
        raise ConfigError(
            _("{path} holds no key: {why}.").format(path=path, why=err),
            hint=_("Delete the folder {folder}; new ones are made.").format(folder=path.parent),
        ) from None


def _host(folder: Path) -> str:
    if not (folder / address.HOST).exists():
        return address.make_address(folder)
    return address.read_address(folder)
