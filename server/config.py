"""The operator's settings, and where everything of the server lies on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from federation import durable, settings
from federation.errors import ConfigError, UsageError
from federation.tor.settings import TorSettings

HOME_VARIABLE = "CONSCIENCE_SERVER_HOME"


class PrivacySettings(BaseModel):
    """Part `privacy` of `server_config.json`: central differential privacy.

    Attributes:
        noise_multiplier: of the noise on a round's sum, over `clip_norm`; 0 is no noise.
        clip_norm: each update is made no longer than this (L2, all values sent), > 0 with noise.
        delta: at which epsilon is told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    noise_multiplier: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=1)


class ServerConfig(settings.Settings):
    """`server_config.json`, mode 0600.

    Attributes:
        name: the federation's name, for people.
        model: the base model: "semilla", an absolute folder or a hub id; settled by init.
        targets: "all-linear" or module suffixes.
        strategy: a rule of `strategies.catalogue`, or an installed stranger's.
        weigher: "capped" or "uniform", then weighers joined by "+": "uniform+sybil+rfa".
        trusted_node: name of the operator's own node, by whose update "fltrust" measures others.
        quorum: fewest accepted updates for a merge.
        round_deadline_s: a round takes what has come by then; a quarter of it, at most 150 s, is
            for asking who holds what.
        max_staleness: versions an update may lie behind; older ones expire.
        staleness_half_life: versions after which an update's weight halves.
        addresses: host names and IP addresses in the certificate; the first is in invitations.
        gateway_port: as superlink_port: chosen at init and kept.
        onion: whether nodes reach the gateway through a Tor onion service; then `addresses` and
            `gateway_host` are for this machine alone.
        onion_clients: volunteers on one onion address; beyond that, further ones share them out.
        tor: the tor that publishes it.
        max_daily_mb: bytes a node may move through the gateway on one day (UTC), both ways.
        max_package_bytes: None means twice the expected package.
        gate_max_tokens: per held-out document.
        gate_tolerance: share of the current loss that counts as noise.
        keep_candidates: refused candidates kept for study; beyond it the oldest go.
        seed: of version 0 and of the gate's bootstrap.
        server_optimiser: how the server steps along a round's change (`strategies.optimiser`).
        server_lr: length of that step; None is 1, or 0.001 for adam and yogi, whose step is about
            that much per value.
        server_momentum: share of the momentum that stays from round to round.
        privacy: noise on each round's sum.
    """

    name: str = Field(default="conscience", pattern=r"^[\w .-]{1,64}$")
    model: str = "semilla"
    revision: str | None = None
    rank: int = Field(default=8, ge=1, le=1024)
    alpha: float = Field(default=16.0, gt=0)
    targets: str | tuple[str, ...] = "all-linear"
    rslora: bool = False
    strategy: str = "fedit"
    weigher: str = "capped"
    trusted_node: str = ""
    quorum: int = Field(default=2, ge=1)
    round_deadline_s: float = Field(default=3600.0, gt=0)
    max_staleness: int = Field(default=3, ge=0)
    staleness_half_life: float = Field(default=1.0, gt=0)
    addresses: tuple[str, ...] = ("127.0.0.1",)
    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=0, ge=0, le=65535)
    superlink_port: int = Field(default=0, ge=0, le=65535)
    onion: bool = True
    onion_clients: int = Field(default=300, ge=1, le=300)
    tor: TorSettings = Field(default_factory=TorSettings)
    max_daily_mb: int = Field(default=4096, ge=1)
    max_package_bytes: int | None = Field(default=None, ge=1)
    quantization: Literal["none", "int8", "nf4"] = "none"
    gate_max_tokens: int = Field(default=256, ge=8)
    gate_tolerance: float = Field(default=0.005, ge=0)
    keep_candidates: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0)
    server_optimiser: str = "none"
    server_lr: float | None = Field(default=None, gt=0)
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    privacy: PrivacySettings = Field(default_factory=PrivacySettings)


@dataclass(frozen=True)
class ServerHome:
    """Every path below the server's home; `root` is absolute."""

    root: Path

    @property
    def config(self) -> Path:
        """Settings."""
        return self.root / "server_config.json"

    @property
    def keys(self) -> Path:
        """Folder of private keys."""
        return self.root / "keys"

    @property
    def signing_key(self) -> Path:
        """The operator's Ed25519 key."""
        return self.keys / "operator.key"

    @property
    def superexec_secret(self) -> Path:
        """Secret shared by SuperLink and its executor."""
        return self.keys / "superexec.secret"

    @property
    def tls(self) -> Path:
        """Folder of the private CA and the server's certificate."""
        return self.root / "tls"

    @property
    def onion(self) -> Path:
        """Folder of the server's tor: its addresses, who may reach them, its state."""
        return self.root / "onion"

    @property
    def superlink_db(self) -> Path:
        """Flower's own state."""
        return self.root / "superlink.db"

    @property
    def nodes_db(self) -> Path:
        """Nodes, invitations and traffic."""
        return self.root / "nodes.sqlite"

    @property
    def intake_db(self) -> Path:
        """What became of each package."""
        return self.root / "intake.sqlite"

    @property
    def registry(self) -> Path:
        """Published global adapters."""
        return self.root / "registry"

    @property
    def models(self) -> Path:
        """Local base models that the settings name without a path."""
        return self.root / "models"

    @property
    def candidates(self) -> Path:
        """Refused candidates, for study."""
        return self.root / "candidates"

    @property
    def spool(self) -> Path:
        """Packages received and not yet merged."""
        return self.root / "spool"

    @property
    def gate(self) -> Path:
        """The operator's own held-out documents (JSONL)."""
        return self.root / "gate"

    @property
    def gate_losses(self) -> Path:
        """What the gate measured, by what was measured."""
        return self.root / "gate_losses"

    @property
    def rounds(self) -> Path:
        """One report a round, `<n>.json`."""
        return self.root / "rounds"

    @property
    def memory(self) -> Path:
        """What rounds remember: the server optimiser's moments, privacy spent."""
        return self.root / "memory"

    @property
    def logs(self) -> Path:
        """Log files of the server and its children."""
        return self.root / "logs"

    @property
    def flwr(self) -> Path:
        """Flower's home (FLWR_HOME)."""
        return self.root / "flwr"

    @property
    def app(self) -> Path:
        """The Flower app folder that rounds are started from."""
        return self.root / "app"

    @property
    def commands(self) -> Path:
        """Folder that the executor finds Flower's commands in first."""
        return self.root / "commands"

    @property
    def running(self) -> Path:
        """JSON with the pid and ports of the server that is up."""
        return self.root / "running.json"

    @property
    def up_lock(self) -> Path:
        """Held while the server is up."""
        return self.root / ".up.lock"

    @property
    def round_lock(self) -> Path:
        """Held while the operator's command waits for a round."""
        return self.root / ".round.lock"

    @property
    def work_lock(self) -> Path:
        """Held by the one ServerApp that works on spool, ledger and registry."""
        return self.root / ".work.lock"


def find_home(flag: Path | None = None, environment: Mapping[str, str] | None = None) -> ServerHome:
    """Place of the server's files: flag, then CONSCIENCE_SERVER_HOME, then the platform's."""
    from platformdirs import user_data_path

    named = (os.environ if environment is None else environment).get(HOME_VARIABLE, "")
    root = flag or (Path(named) if named else user_data_path("conscienceai-server"))
    return ServerHome(root.expanduser().absolute())


def load_config(
    home: ServerHome,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> ServerConfig:
    """Read the settings of an existing home.

    Raises:
        ConfigError: no server has been set up there, or a value is wrong.
    """
    if not home.config.exists():
        raise ConfigError(
            f"there is no server at {home.root}", hint="Run: flower-server init --home DIR"
        )
    chosen = os.environ if environment is None else environment
    return settings.load(ServerConfig, home.config, environment=chosen, flags=flags)[0]


def load_onion_config(home: ServerHome) -> ServerConfig:
    """`load_config` of a server that has an onion service.

    Raises:
        UsageError: this one has none.
        ConfigError: as `load_config`.
    """
    config = load_config(home)
    if not config.onion:
        raise UsageError(
            "this server has no onion service", hint='Set "onion" to true in server_config.json.'
        )
    return config


def new_config(values: Mapping[str, Any]) -> ServerConfig:
    """Settings for a new server: defaults, environment, then `values` that are not None.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if "rank" in given and "alpha" not in given:
        given["alpha"] = 2.0 * given["rank"]
    return settings.load(ServerConfig, None, environment=os.environ, flags=given)[0]


def parse_settings(lines: Iterable[str]) -> dict[str, Any]:
    """Read settings given as "key=value" or "tor.key=value", values as JSON or else plain text.

    Raises:
        ConfigError: a line without "=".
    """
    found: dict[str, Any] = {}
    for line in lines:
        key, sign, text = line.partition("=")
        if not sign:
            raise ConfigError(f"'{line}' is not a setting", hint="Write key=value.")
        part, dot, inner = key.strip().partition(".")
        value = _value(text)
        if dot:
            before = found.get(part)
            value = (before if isinstance(before, dict) else {}) | {inner: value}
        found[part] = value
    return found


def _value(text: str) -> Any:  # noqa: ANN401 (anything JSON can hold)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def save_config(home: ServerHome, config: ServerConfig) -> None:
    """Write the settings."""
    durable.make_folder(home.root)
    settings.save(config, home.config)
