"""The chat's server as it is run: uvicorn on loopback over a node's real files, and who asks it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from client.chat_answers import NodeAnswers, NodeState
from client.chat_settings import pin_of, settings_of
from client.chat_shelf import NodeDocuments, NodeFeeds
from client.chat_web import HOST, Door, _listener, server
from client.config import NodeConfig, NodeHome
from client.knowledge import open_memory
from client.library import open_library
from rag.answer.generate import Writer
from rag.answer.respond import Responder
from rag.chat.web.app import Chat
from rag.chat.web.desk import Desk
from rag.chat.web.feedback import Feedback
from rag.chat.web.login import Login
from rag.chat.web.services import Services
from rag.ingest.feed_settings import FeedSettings
from tests.feed_samples import text_of

CONFIG = NodeConfig(
    embedder="none", device="cpu", model="semilla", feeds=FeedSettings(allow_loopback=True)
)


class WritingAnswers(NodeAnswers):
    """As `NodeAnswers`, with a writer given by the test."""

    writer: Writer | None = None

    def responder(self, *, adapter: bool = True) -> Responder:
        """Writes, whatever the model's size."""
        found = super().responder(adapter=adapter)
        if self.writer is None:
            return found
        return Responder(found.search, self.writer, found.refusal, "generative")


@dataclass
class Bench:
    """A running chat."""

    home: NodeHome
    door: Door
    chat: Chat
    client: httpx.Client
    stranger: httpx.Client = field(repr=False)

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{HOST}:{self.door.port}"

    @property
    def token(self) -> str:
        """Of this start."""
        return self.door.login.token

    def ask(self, message: str, **fields: Any) -> dict[str, Any]:
        """A whole answer."""
        answer = self.client.post("/api/chat", json={"message": message, **fields})
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def stream(self, message: str, **fields: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """An answer's events as they come."""
        content = {"message": message, "stream": True, **fields}
        with self.client.stream("POST", "/api/chat", json=content) as answer:
            answer.raise_for_status()
            yield from events(answer.iter_lines())

    def fill(self) -> None:
        """Other texts: among a handful, no word tells one from the next."""
        rows = [json.dumps({"text": text_of(n), "title": f"Nota {n}"}) for n in range(60)]
        self.upload("otras notas.jsonl", "\n".join(rows).encode()).raise_for_status()

    def upload(self, name: str, body: bytes) -> httpx.Response:
        """Drop a file on the page."""
        return self.client.post("/api/documents", files={"file": (name, body)})


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Server-sent events of a stream's lines."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def chat_of(
    folder: Path,
    *,
    writer: Writer | None = None,
    desk: Desk | None = None,
    config: NodeConfig = CONFIG,
    onion: str = "",
) -> Iterator[Bench]:
    """A chat over the node at `folder`, for the length of the block."""
    home = NodeHome(folder)
    with open_library(home, config) as library, _listener(0) as listener:
        settings = settings_of(home, config)
        answers = WritingAnswers(home, config, library, pin_of(settings))
        answers.writer = writer
        services = Services(
            answers=answers,
            feeds=NodeFeeds(home, config, lambda: None),
            documents=NodeDocuments(home, config, lambda: None),
            state=NodeState(home),
            memory=open_memory(home, config),
            feedback=Feedback(home.feedback),
            settings=settings,
            version="0",
        )
        door = Door(listener, Login(), onion)
        chat = Chat(services, door.login, door.hosts, desk=desk or Desk())
        running = server(chat.build())
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not running.started and thread.is_alive():
                time.sleep(0.01)
            url = f"http://{HOST}:{door.port}"
            with (
                httpx.Client(base_url=url, timeout=60, headers={"Origin": url}) as client,
                httpx.Client(base_url=url, timeout=60) as stranger,
            ):
                client.post("/api/login", json={"token": door.login.token}).raise_for_status()
                yield Bench(home, door, chat, client, stranger)
        finally:
            running.should_exit = True
            thread.join()
