"""What is asked of a running tor, through its control port: the only door to stem.

A plain BaseController, never stem's Controller: that one takes ownership of a tor which was started
by this process, and such a tor exits when the control connection closes. stem waits for answers
without end, so a watchdog closes a connection that stays silent; and it would hand a port that
asks for it any file of 32 bytes as "the cookie", so only SAFECOOKIE is spoken: the port has to
prove that it knows the cookie first.

A `Control` belongs to one thread. Nothing of stem's leaves this file: its exceptions become
TorError, in words without addresses or keys.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

from federation.errors import TorError
from federation.language import _
from federation.tor import bootstrap, keys
from federation.tor.bootstrap import Bootstrap
from federation.tor.uploads import Uploads

ANSWER_S = 10.0
FETCH_S = 20.0
BEGIN_S = 1.0
PAUSE_S = 0.05
PORT_FILE, COOKIE_FILE = "control_port", "control_auth_cookie"


class ControlError(TorError):
    """Tor refused a command; `code` is its three digits."""

    def __init__(self, message: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class Control:
    """An authenticated control connection; a context manager."""

    def __init__(
        self, address: str, authenticate: Callable[[Any], None], *, answer_s: float = ANSWER_S
    ) -> None:
        self._answer_s = answer_s
        self._listeners: list[SimpleQueue[str]] = []
        self._controller = _connect(address, self._hear)
        try:
            with self._bounded():
                authenticate(self._controller)
        except BaseException:
            self.close()
            raise

    @classmethod
    def at(cls, address: str, *, answer_s: float = ANSWER_S) -> Self:
        """Connect to a tor that is not ours, at "127.0.0.1:port" or "unix:/path".

        Args:
            address: of its control port.
            answer_s: how long to wait for any answer.

        Raises:
            TorError: nothing listens there, or it lets in neither everybody nor those who can
                read its cookie.
        """
        return cls(address, _enter, answer_s=answer_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it the onions that were added through it."""
        self._controller.close()

    def ask(self, command: str) -> list[str]:
        """Send one command and return the lines of the answer, without their codes.

        Raises:
            ControlError: tor refused.
            TorError: it is gone or does not answer.
        """
        with self._bounded():
            content = self._controller.msg(command).content()
        code = content[-1][0]
        if not code.startswith("2"):
            verb = command.split()[0]
            raise ControlError(
                _("Tor refused the command {verb} ({code}).").format(verb=verb, code=code),
                code=code,
            )
        return [text for _code, _divider, text in content]

    def info(self, key: str) -> str:
        """Return what GETINFO says about `key`, "" for nothing."""
        return self.ask(f"GETINFO {key}")[0].partition("=")[2].strip()

    def bootstrap(self) -> Bootstrap:
        """Return how far tor has come."""
        return bootstrap.read(self.info("status/bootstrap-phase"))

    def socks(self) -> list[str]:
        """Return where its SOCKS ports listen: "127.0.0.1:port" or "unix:/path"."""
        return re.findall(r'"([^"]+)"', self.info("net/listeners/socks"))

    def reload(self) -> None:
        """Let tor read its torrc and the keys of its services again."""
        self.ask("SIGNAL RELOAD")

    def newnym(self) -> None:
        """Forget circuits and descriptors, and client keys that were added here."""
        self.ask("SIGNAL NEWNYM")

    def halt(self) -> None:
        """End tor at once."""
        with suppress(TorError):  # it may be gone before it answers
            self.ask("SIGNAL HALT")

    def has_client_key(self, host: str) -> bool:
        """Whether tor holds a client key for the onion `host`."""
        lines = self.ask(f"ONION_CLIENT_AUTH_VIEW {_service(host)}")
        return any(line.startswith("CLIENT ") for line in lines)

    def add_client_key(self, host: str, private: str) -> None:
        """Give tor the key that opens the onion `host`, until it ends or NEWNYM."""
        self.ask(f"ONION_CLIENT_AUTH_ADD {_service(host)} x25519:{keys.control_key(private)}")

    def remove_client_key(self, host: str) -> None:
        """Take back the client key for the onion `host`, if there is one."""
        self.ask(f"ONION_CLIENT_AUTH_REMOVE {_service(host)}")

    def add_onion(self, port: int, target: str, clients: Sequence[str], key: str = "") -> str:
        """Publish an onion service that lives as long as this connection.

        Args:
            port: the one its visitors name.
            target: "127.0.0.1:port" that they reach.
            clients: public keys of those who may; never empty.
            key: of its address, as `address.control_key` gives it; "" for a new one.

        Returns:
            Its address, "….onion".
        """
        if not clients:
            raise ValueError("an onion without client keys would be open to everybody")
        who = " ".join(f"ClientAuthV3={public}" for public in clients)
        flags = "Flags=V3Auth" if key else "Flags=DiscardPK,V3Auth"
        made = key or "NEW:ED25519-V3"
        lines = self.ask(f"ADD_ONION {made} {flags} Port={port},{target} {who}")
        return lines[0].removeprefix("ServiceID=") + ".onion"

    def remove_onion(self, host: str) -> None:
        """Take down a service that was added through this connection."""
        self.ask(f"DEL_ONION {_service(host)}")

    @contextmanager
    def uploads(self, host: str) -> Iterator[Uploads]:
        """Watch the uploads of the onion `host`; enter this before what causes them."""
        with self._listening() as events:
            yield Uploads(_service(host), events)

    def fetch(self, host: str, timeout_s: float = FETCH_S) -> bool:
        """Fetch the descriptor of the onion `host` anew, past tor's cache of it.

        Returns:
            Whether one came. It does not if the directory asked has none, or if every one of them
            was asked in the last minutes, which NEWNYM forgets.
        """
        begun = time.monotonic()
        deadline = begun + min(timeout_s, BEGIN_S)  # tor says at once whom it asks, if anybody
        with self._listening() as events:
            self.ask(f"HSFETCH {_service(host)}")
            while True:
                try:
                    event = events.get(timeout=max(0.0, deadline - time.monotonic()))
                except Empty:
                    return False
                action, service = event.split()[1:3]
                if service == _service(host):
                    if action in ("RECEIVED", "FAILED"):
                        return action == "RECEIVED"
                    deadline = begun + timeout_s

    @contextmanager
    def _listening(self) -> Iterator[SimpleQueue[str]]:
        events: SimpleQueue[str] = SimpleQueue()
        self._listeners.append(events)
        try:
            self.ask("SETEVENTS HS_DESC")
            yield events
        finally:
            self._listeners.remove(events)
            if not self._listeners:
                with suppress(TorError):  # the connection may be what failed
                    self.ask("SETEVENTS")

    def _hear(self, event: str) -> None:
        for listener in tuple(self._listeners):
            listener.put(event)

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Close the connection if the block takes too long; turn stem's exceptions into ours."""
        watchdog = threading.Timer(self._answer_s, self._controller.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except _stem_errors() as err:
            raise _failed(type(err).__name__) from err
        finally:
            watchdog.cancel()


def open_control(folder: Path, timeout_s: float = 0.0, *, answer_s: float = ANSWER_S) -> Control:
    """Connect to the tor of ours that lives in `folder`.

    Args:
        folder: where its torrc puts `control_port` and `control_auth_cookie`.
        timeout_s: how long to go on trying; it is tried once at least.
        answer_s: how long to wait for any answer.

    Raises:
        TorError: it is not running, or what listens there does not know its cookie.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            prove = _prove(folder / COOKIE_FILE)
            return Control(_written_address(folder), prove, answer_s=answer_s)
        except TorError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(PAUSE_S)


def _written_address(folder: Path) -> str:
    try:
        written = (folder / PORT_FILE).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as err:
        raise TorError(_("Tor is not running.")) from err
    return written.strip().removeprefix("PORT=").removeprefix("UNIX_PORT=")


def _prove(cookie: Path) -> Callable[[Any], None]:
    def authenticate(controller: Any) -> None:  # noqa: ANN401 - stem has no types
        import stem.connection

        stem.connection.authenticate_safecookie(controller, str(cookie), suppress_ctl_errors=False)

    return authenticate


def _enter(controller: Any) -> None:  # noqa: ANN401
    """Authenticate to a tor that is not ours, by what it offers."""
    import stem.connection
    import stem.response
    from stem.connection import AuthMethod

    # stem's own get_protocolinfo asks a second time where the watchdog has ended the first
    offer = controller.msg("PROTOCOLINFO 1")
    stem.response.convert("PROTOCOLINFO", offer)
    if AuthMethod.NONE in offer.auth_methods:
        stem.connection.authenticate_none(controller, suppress_ctl_errors=False)
    elif AuthMethod.SAFECOOKIE in offer.auth_methods and offer.cookie_path:
        _prove(Path(offer.cookie_path))(controller)
    else:
        raise _failed("PASSWORD")


def _connect(address: str, hear: Callable[[str], None]) -> Any:  # noqa: ANN401
    """A controller that is connected, not authenticated, and tells `hear` every event."""
    import stem
    from stem.control import BaseController
    from stem.socket import ControlSocket

    logging.getLogger("stem").setLevel(logging.WARNING)  # below that it logs what it sends: keys

    class Line(ControlSocket):  # type: ignore[misc]  # stem has no types
        def _make_socket(self) -> socket.socket:
            try:
                return _dial(address)
            except (OSError, ValueError) as err:
                raise stem.SocketError(str(err)) from err

    class Listener(BaseController):  # type: ignore[misc]
        def _handle_event(self, event_message: object) -> None:
            hear(str(event_message))

    line = Line()
    try:
        line.connect()
    except stem.ControllerError as err:
        raise _failed("CLOSED") from err
    return Listener(line)


def _dial(address: str) -> socket.socket:
    if address.startswith("unix:"):
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this system has no unix sockets")
        opened = socket.socket(socket.AF_UNIX)
        try:
            opened.connect(address.removeprefix("unix:"))
        except OSError:
            opened.close()
            raise
    else:
        host, _colon, port = address.rpartition(":")
        opened = socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S)
    opened.settimeout(None)
    return opened


def _stem_errors() -> tuple[type[Exception], ...]:
    import stem
    import stem.connection  # `import stem` alone does not load it

    return stem.ControllerError, stem.connection.AuthenticationFailure


def _failed(what: str) -> TorError:
    return TorError(
        _("Tor's control port does not answer us ({what}).").format(what=what),
        hint=_("Is Tor running, and may this user read its control cookie?"),
    )


def _service(host: str) -> str:
    return host.removesuffix(".onion")
