"""`flower-client chat --web`: the page and the API on this machine, and as an onion service."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp

from client.chat_answers import NodeAnswers, NodeState
from client.chat_onion import ChatOnion
from client.chat_settings import pin_of, settings_of
from client.chat_shelf import NodeDocuments, NodeFeeds, Upkeep
from client.chat_token import keep_token
from client.config import NodeConfig, NodeHome
from client.knowledge import open_memory
from client.library import open_library
from federation.bundle import installed_version
from federation.errors import ConscienceError
from federation.language import _
from rag.chat.web.app import Chat
from rag.chat.web.feedback import Feedback
from rag.chat.web.login import Login
from rag.chat.web.services import Services

HOST = "127.0.0.1"  # and no other: whoever is elsewhere comes through the onion service
PORT = 5180
MOST_CONNECTIONS = 128
Say = Callable[[str], None]


@dataclass(frozen=True)
class Door:
    """Where the server listens, and how one gets in."""

    listener: socket.socket
    login: Login
    onion: str = ""

    @property
    def port(self) -> int:
        """The one that was given, or found."""
        return int(self.listener.getsockname()[1])

    @property
    def hosts(self) -> frozenset[str]:
        """What this server is called."""
        names = {f"{HOST}:{self.port}", f"localhost:{self.port}", self.onion}
        return frozenset(name for name in names if name)

    @property
    def link(self) -> str:
        """Opens the page; what is behind # is sent to no server and stands in no log."""
        return f"http://{HOST}:{self.port}/#token={self.login.token}"


def serve(
    home: NodeHome,
    config: NodeConfig,
    port: int,
    say: Say,
    *,
    onion: bool = False,
    new_token: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        home: the node's home.
        config: its settings.
        port: 0 finds a free one.
        say: told the links, once.
        onion: publish it as an onion service too, for visitors with its key.
        new_token: make another; the one before opens nothing any more.

    Raises:
        PermissionsError: other users can read the token.
        ConscienceError: the port is taken.
        TorError: the onion service cannot be published.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(_listener(port))
        login, name = Login(keep_token(home.chat_token, anew=new_token)), ""
        if onion:
            number = listener.getsockname()[1]
            service = ChatOnion(home.chat_onion, config.tor, number, say)
            name = service.visit.url.removeprefix("http://").rstrip("/")
        door = Door(listener, login, name)
        app = stack.enter_context(application(home, config, door))
        say(_("The chat is here, and only on this machine: {link}").format(link=door.link))
        say(_("The key for other programs ({url}): {key}").format(
            url=f"http://{HOST}:{door.port}/v1", key=login.token))  # fmt: skip
        if onion:
            visit = stack.enter_context(service).visit
            link = f"{visit.url}#token={login.token}"
            say(_("From your other devices, in Tor Browser: {link}").format(link=link))
            say(_("Tor Browser asks for this key: {key}").format(key=visit.key))
        server(app).run(sockets=[listener])


@contextmanager
def application(home: NodeHome, config: NodeConfig, door: Door) -> Iterator[ASGIApp]:
    """The application over this node's files, for the length of the block."""
    with open_library(home, config) as library:
        library.warm()
        upkeep = Upkeep(home, config)
        settings = settings_of(home, config)
        services = Services(
            answers=NodeAnswers(home, config, library, pin_of(settings)),
            feeds=NodeFeeds(home, config, upkeep.ask),
            documents=NodeDocuments(home, config, upkeep.ask),
            state=NodeState(home),
            memory=open_memory(home, config),
            feedback=Feedback(home.feedback),
            settings=settings,
            version=installed_version(),
        )
        try:
            yield Chat(services, door.login, door.hosts, f"conscienceai_{door.port}").build()
        finally:
            upkeep.close()


class _Server(uvicorn.Server):
    """Ends on a signal without raising it again: what is open around it is closed then."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handlers for the length of the block, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server(app: ASGIApp) -> uvicorn.Server:
    """What serves it; nothing of a request is logged."""
    return _Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            access_log=False,
            server_header=False,
            log_level="warning",
            timeout_graceful_shutdown=5,
            limit_concurrency=MOST_CONNECTIONS,
            proxy_headers=False,
        )
    )


@contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((HOST, port), backlog=64)
    except OSError as err:
        raise ConscienceError(
            _("Port {port} is taken.").format(port=port),
            hint=_("Another chat may run; or give another one: --port 5181"),
        ) from err
    with listener:
        yield listener
