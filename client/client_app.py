"""What Flower loads on a node: it answers hello, collect and deploy. Nobody imports this file.

Flower starts a new process for each message, so all state lies on disk. Only `deploy` and live
`collect` load the base model; `hello` and `collect` answer in a moment.
"""

from __future__ import annotations

import logging

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client import cycle, sent
from client.adapters import AdapterStore
from client.config import Federation, NodeConfig, NodeHome, find_home, load_config, load_federation
from client.outbox import Outbox, open_outbox
from client.relocation import follow
from federation import padding, protocol
from federation.errors import ConscienceError, NoDataError
from federation.protocol import (
    MAX_OFFERS,
    Collect,
    CollectReply,
    Deploy,
    DeployReply,
    Hello,
    HelloReply,
    Offer,
    Verdict,
)

logger = logging.getLogger(__name__)
app = ClientApp()


class Node:
    """This node's files, opened once per message."""

    def __init__(self) -> None:
        self.home: NodeHome = find_home()
        self.config: NodeConfig = load_config(self.home)[0]
        self.federation: Federation = load_federation(self.home)
        self.outbox: Outbox = open_outbox(self.home, self.config)
        self.store = AdapterStore(self.home, self.federation)

    def take_verdicts(self, verdicts: tuple[Verdict, ...]) -> None:
        """Settle what the server decided about packages of ours."""
        for verdict in verdicts:
            self.outbox.settle(verdict.sha256, verdict)

    def take_global(self, message: Message, chain: tuple[str, ...]) -> str:
        """Install the adapter that rides along, if one does; returns why it was refused, or ""."""
        blob = _blob_of(message)
        if blob is None:
            return ""
        try:
            version = self.store.install(blob, chain, _blob_of(message, protocol.BASE_KEY) or b"")
        except ConscienceError as err:
            logger.warning("refused a global adapter: %s", err.message)
            return _public(err)
        logger.info("installed global v%d", version)
        return ""


@app.query(protocol.HELLO_ACTION)
def hello(message: Message, context: Context) -> Message:
    """Say which version is held and what waits in the outbox."""
    node = Node()
    protocol.parse(Hello, _body_of(message))
    offers = tuple(
        Offer(
            sha256=entry.sha256,
            global_version=entry.global_version,
            size_bytes=entry.size_bytes,
        )
        for entry in node.outbox.offers()[:MAX_OFFERS]
    )
    held = node.store.held_version()
    return _reply(message, HelloReply(node=node.federation.node, held_version=held, offers=offers))


@app.train()
def collect(message: Message, context: Context) -> Message:
    """Hand over the package the server asks for; in live mode, train it first."""
    node = Node()
    body = protocol.parse(Collect, _body_of(message))
    node.take_verdicts(body.verdicts)
    note = node.take_global(message, body.chain)
    held = node.store.held_version()
    wanted = body.want
    if body.mode == "live" and not note:
        trained, note = _train_now(node)
        wanted = trained or wanted  # made before, perhaps in a round that died: handed over now
    data, problem = _hand_over(node, wanted)
    reply = CollectReply(
        node=node.federation.node,
        held_version=held,
        sha256=wanted if data is not None else "",
        size_bytes=len(data or b""),
        note=note or problem,
    )
    if data is None:
        return _reply(message, reply)
    blob = padding.pad(data)
    sent.note(node.home.sent, "package", len(blob), sha256=wanted, size_bytes=len(data))
    return _reply(message, reply, blob)


@app.evaluate()
def deploy(message: Message, context: Context) -> Message:
    """Verify and store the newest global adapter, then measure it on this node's held-out text."""
    node = Node()
    body = protocol.parse(Deploy, _body_of(message))
    node.take_verdicts(body.verdicts)
    follow(node.home, body.address)
    reason = node.take_global(message, body.chain)
    loss, examples = (None, 0) if reason else _local_loss(node)
    reply = DeployReply(
        node=node.federation.node,
        held_version=node.store.held_version(),
        accepted=not reason,
        reason=reason,
        loss=loss,
        examples=examples,
    )
    return _reply(message, reply)


def _hand_over(node: Node, wanted: str) -> tuple[bytes | None, str]:
    """The package's bytes, marked as handed over before they leave; or why there are none."""
    if not wanted:
        return None, ""
    try:
        data = node.outbox.read(wanted)
        node.outbox.hand_over(wanted)
    except ConscienceError as err:
        logger.warning("package %s was not handed over: %s", wanted[:12], err.message)
        return None, _public(err)
    return data, ""


def _train_now(node: Node) -> tuple[str, str]:
    """Train from the adapter held; returns the package's hash and a note."""
    try:
        entry = cycle.contribute(node.home, node.config)
    except ConscienceError as err:
        logger.warning("nothing was trained: %s", err.message)
        return "", _public(err)
    return (entry.sha256, "") if entry is not None else ("", "nothing new to contribute")


def _local_loss(node: Node) -> tuple[float | None, int]:
    try:
        return cycle.evaluate_current(node.home, node.config)
    except NoDataError:
        return None, 0
    except ConscienceError as err:
        logger.warning("no local evaluation: %s", err.message)
        return None, 0


def _public(err: ConscienceError) -> str:
    """What the server may hear of an error: its kind. The sentence may name this node's folders."""
    return type(err).__name__


def _reply(message: Message, body: protocol.Body, blob: bytes | None = None) -> Message:
    content = RecordDict(
        {protocol.BODY_KEY: ConfigRecord({protocol.BODY_KEY: body.model_dump_json()})}
    )
    if blob is not None:
        array = Array(dtype="uint8", shape=(len(blob),), stype=protocol.BLOB_KIND, data=blob)
        content[protocol.BLOB_KEY] = ArrayRecord({protocol.BLOB_KEY: array})
    return Message(content, reply_to=message)


def _body_of(message: Message) -> str:
    return str(message.content.config_records[protocol.BODY_KEY][protocol.BODY_KEY])


def _blob_of(message: Message, key: str = protocol.BLOB_KEY) -> bytes | None:
    record = message.content.array_records.get(protocol.BLOB_KEY)
    return record[key].data if record is not None and key in record else None
