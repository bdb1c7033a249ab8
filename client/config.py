"""A node's settings (`node_config.json`) and where everything of it lies on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from client.address import parse_address
from client.sharing import SharingSettings
from federation import durable, settings
from federation.errors import ConfigError
from federation.language import _
from federation.tor.keys import is_onion
from federation.tor.settings import TorSettings
from rag.ingest.feed_settings import FeedSettings

HOME_VARIABLE = "CONSCIENCE_HOME"
DEFAULT_DATA = "datasets/rss_research.jsonl"


class NodeConfig(settings.Settings):
    """`node_config.json`, mode 0600; every key is read somewhere, and nothing else is accepted.

    Attributes:
        node_id: a name for the owner's own eyes; never sent.
        server_url: overrides the invitation's address: https, an onion service or loopback.
        model: base model, "" chooses; a folder or a hub id.
        revision: commit of a hub model.
        model_dir: folder searched for local models; "" is `models/` in the home.
        data: JSONL files, relative to the home; those that do not exist are passed over if the
            list is the default one.
        max_minutes: training stops at the next step after so long; 0 means no limit.
        qa_subset_size: question-answer pairs trained on each day, another sample daily; 0 = all.
        coding: how the delta is written.
        sharing: how this node takes part in the federation.
        outbox_max_mb: room for packages without a verdict; where it is short, the oldest that have
            not been sent are given up. What was sent stays until its verdict.
        max_package_age_days: packages waiting longer than this expire.
        embedder: makes the vectors of retrieval: a folder or a hub id; "" is the embedded one if it
            is installed, "none" is words alone.
        rag_corpus_path: corpus of retrieval, relative to the home; "" is what `ingest` writes.
        embedder_threads: processors it may use; 0 is half of them, at most 4.
        use_tor: true: whatever uses the network goes through Tor or fails; false: nothing does,
            and the server must not be an onion service; null: true if the server is one.
        tor: which tor, and how it reaches the network.
        answer_style: whether the chat quotes its sources or the model writes; "auto" goes by the
            model's size.
        memory_path: file of what was said, relative to the home; "" is `memory/chat.sqlite`.
        memory_days: what was said longer ago is forgotten; 0 keeps it.
        feeds: what is wanted of them; which they are, `datasets/rss_feeds.json` says.
        ingest_first: `contribute` reads the feeds that are due before the day's training.
        start_jitter_s: `run` waits a random time of at most so long before its first contact.
    """

    node_id: str = Field(default="", max_length=64)
    server_url: str = ""
    model: str = ""
    revision: str | None = None
    model_dir: str = ""
    quantization: Literal["none", "int8", "nf4"] = "none"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    task: Literal["auto", "qa", "lm"] = "auto"
    data: tuple[str, ...] = (DEFAULT_DATA,)
    learning_rate: float = Field(default=5e-4, gt=0, le=1)
    epochs: int = Field(default=1, ge=1, le=1000)
    batch_size: int = Field(default=4, ge=1, le=1024)
    gradient_accumulation: int = Field(default=1, ge=1, le=1024)
    max_seq_len: int = Field(default=512, ge=16, le=131_072)
    max_minutes: float = Field(default=120.0, ge=0, le=1440)
    seed: int = Field(default=0, ge=0, lt=2**32)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    qa_subset_size: int = Field(default=200, ge=0)
    coding: Literal["bf16", "int8"] = "bf16"
    sharing: SharingSettings = Field(default_factory=SharingSettings)
    outbox_max_mb: int = Field(default=512, ge=1)
    max_package_age_days: float = Field(default=14.0, gt=0)
    embedder: str = ""
    rag_corpus_path: str = ""
    embedder_threads: int = Field(default=0, ge=0, le=256)
    use_tor: bool | None = None
    tor: TorSettings = Field(default_factory=TorSettings)
    feeds: FeedSettings = Field(default_factory=FeedSettings)
    ingest_first: bool = True
    start_jitter_s: float = Field(default=20.0, ge=0, le=7200)
    answer_style: Literal["auto", "extractive", "generative"] = "auto"
    memory_path: str = ""
    memory_days: int = Field(default=0, ge=0, le=36_500)

    @field_validator("server_url")
    @classmethod
    def _server_url_is_safe(cls, value: str) -> str:
        if value:
            parse_address(value)
        return value


class Federation(settings.Settings):
    """`federation.json`, written by `join`: what this node belongs to and trusts.

    Attributes:
        address: "host:port" of the gateway.
        base_ref: a person's name for the base model; `base_hash` is its identity.
        spec: `AdapterSpec.to_json()`.
        operator_key: Ed25519 public key, hex, pinned: every global adapter must be signed by it.
        bundle_hash: of the code the server ran when the invitation was made.
        node: this node's pseudonym.
        flower_node_id: Flower's number for it, decimal text.
        joined_at: ISO 8601, UTC.
    """

    format: int = 1
    address: str
    base_ref: str
    base_hash: str
    spec: dict[str, Any]
    operator_key: str
    bundle_hash: str
    node: str
    name: str = ""
    flower_node_id: str
    joined_at: str


@dataclass(frozen=True)
class NodeHome:
    """Every path below a node's home; `root` is absolute."""

    root: Path

    @property
    def config(self) -> Path:
        """Settings."""
        return self.root / "node_config.json"

    @property
    def federation(self) -> Path:
        """What this node joined."""
        return self.root / "federation.json"

    @property
    def keys(self) -> Path:
        """Folder of private keys."""
        return self.root / "keys"

    @property
    def onion_key(self) -> Path:
        """This node's key to the server's onion service, as tor reads it."""
        return self.keys / "onion.auth_private"

    @property
    def tor(self) -> Path:
        """Folder of the node's own tor."""
        return self.root / "tor"

    @property
    def chat_onion(self) -> Path:
        """The chat's own onion service: its address, its visitors' key, its tor."""
        return self.root / "chat-onion"

    @property
    def superexec_secret(self) -> Path:
        """Secret shared by the SuperNode and its executor."""
        return self.keys / "superexec.secret"

    @property
    def ca(self) -> Path:
        """Certificate authority of the server, from the invitation; the only one trusted."""
        return self.root / "tls" / "ca.crt"

    @property
    def datasets(self) -> Path:
        """Local texts."""
        return self.root / "datasets"

    @property
    def corpus(self) -> Path:
        """What feeds and files have brought: JSON Lines, append-only."""
        return self.root / DEFAULT_DATA

    @property
    def feeds(self) -> Path:
        """Which feeds are read."""
        return self.datasets / "rss_feeds.json"

    @property
    def corpus_index(self) -> Path:
        """SQLite: what the corpus holds, and the state of each feed."""
        return self.root / "rag" / "ingest.sqlite"

    @property
    def feed_stats(self) -> Path:
        """JSON: how each feed fared in the last ingest."""
        return self.runs / "rss_stats.json"

    @property
    def rag(self) -> Path:
        """The store of retrieval and its index; both can be made again from the corpus."""
        return self.root / "rag"

    @property
    def models(self) -> Path:
        """Local base models and received adapters."""
        return self.root / "models"

    @property
    def adapters(self) -> Path:
        """Global adapters received, one folder a version."""
        return self.models / "global"

    @property
    def own_factor(self) -> Path:
        """The factor of the adapter that never leaves this node, where the rule keeps one."""
        return self.adapters / "own.safetensors"

    @property
    def current_adapter(self) -> Path:
        """Text file naming the version in use."""
        return self.models / "current"

    @property
    def earlier(self) -> Path:
        """What was put aside when this node joined another federation."""
        return self.root / "earlier"

    @property
    def outbox(self) -> Path:
        """Packages waiting to be collected."""
        return self.root / "outbox"

    @property
    def runs(self) -> Path:
        """One folder a training run, and `latest`."""
        return self.root / "ai_runs"

    @property
    def memory(self) -> Path:
        """What was said in chats, unless `memory_path` names another file."""
        return self.root / "memory" / "chat.sqlite"

    @property
    def feedback(self) -> Path:
        """What was thought of answers on the chat's page."""
        return self.root / "memory" / "feedback.jsonl"

    @property
    def chat_token(self) -> Path:
        """Opens the chat's page and its API."""
        return self.keys / "chat.token"

    @property
    def documents(self) -> Path:
        """Files that were given to the chat's page."""
        return self.root / "documents"

    @property
    def refusal(self) -> Path:
        """When the corpus does not answer a question: fitted to it."""
        return self.root / "rag" / "refusal.json"

    @property
    def logs(self) -> Path:
        """Log files of the node and its children."""
        return self.root / "logs"

    @property
    def flwr(self) -> Path:
        """Flower's home (FLWR_HOME)."""
        return self.root / "flwr"

    @property
    def bin(self) -> Path:
        """Our own Flower commands, first on the executor's PATH."""
        return self.root / "bin"

    @property
    def sent(self) -> Path:
        """What left this machine, one line a hand-over."""
        return self.root / "sent.jsonl"

    @property
    def asked(self) -> Path:
        """Which servers of feeds were asked, one line a request."""
        return self.root / "asked.jsonl"

    @property
    def running(self) -> Path:
        """JSON with the pid and state of the node that runs."""
        return self.root / "running.json"

    @property
    def run_lock(self) -> Path:
        """Held while the node runs."""
        return self.root / ".run.lock"

    @property
    def train_lock(self) -> Path:
        """Held while the node trains."""
        return self.root / ".train.lock"


def find_home(flag: Path | None = None, environment: Mapping[str, str] | None = None) -> NodeHome:
    """Place of the node's files: flag, then CONSCIENCE_HOME, then the platform's data folder."""
    from platformdirs import user_data_path

    named = (os.environ if environment is None else environment).get(HOME_VARIABLE, "")
    root = flag or (Path(named) if named else user_data_path("conscienceai"))
    return NodeHome(root.expanduser().absolute())


def load_config(
    home: NodeHome,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[NodeConfig, dict[str, str]]:
    """Read the settings and where each came from; a missing file means defaults.

    Args:
        home: the node's home.
        environment: None reads the process's own.
        flags: as `federation.settings.load`.
    """
    chosen = os.environ if environment is None else environment
    return settings.load(NodeConfig, home.config, environment=chosen, flags=flags)


def load_federation(home: NodeHome) -> Federation:
    """Read what `join` wrote.

    Raises:
        ConfigError: this node has not joined, or the file is damaged or newer.
    """
    if not home.federation.exists():
        raise ConfigError(
            _("This node has not joined a federation yet."),
            hint=_("Ask an operator for an invitation, then run: flower-client join"),
        )
    federation, _sources = settings.load(Federation, home.federation)
    if federation.format > 1:
        raise ConfigError(
            _("{path} was made by a newer version of conscienceai.").format(path=home.federation),
            hint=_("Install the newer version, then try again."),
        )
    return federation


def server_address(config: NodeConfig, invited: str) -> str:
    """The gateway's "host:port": the config's if it names one, else the invitation's."""
    if not config.server_url:
        return invited
    host, port = parse_address(config.server_url)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def goes_through_tor(config: NodeConfig, address: str) -> bool:
    """Whether this node's connections go through Tor: asked by every command before its first one.

    Args:
        config: the node's settings.
        address: "host:port" of its server, whatever the command itself wants to reach.

    Raises:
        ConfigError: the settings and the server's address do not go together.
    """
    from federation.tor.way import goes_through_tor as decide

    return decide(host_of(address), use_tor=config.use_tor)


def host_of(address: str) -> str:
    """Host of a "host:port"."""
    return address.rpartition(":")[0].strip("[]")


def shown_address(address: str) -> str:
    """An address as people and files may see it: whoever reads an onion's knows the server."""
    return _("the server's onion service") if is_onion(host_of(address)) else address


def write_default(home: NodeHome) -> Path:
    """Make the home with a config file that holds every key, if there is none yet."""
    durable.make_folder(home.root)
    for folder in (home.keys, home.datasets, home.models, home.outbox, home.runs, home.logs):
        durable.make_folder(folder)
    if not home.config.exists():
        settings.save(NodeConfig(), home.config)
    return home.config
