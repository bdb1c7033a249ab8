"""A node's settings: what is accepted, from where, and where its files lie."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from client.address import parse_address
from client.cli import run
from client.config import (
    DEFAULT_DATA,
    NodeConfig,
    NodeHome,
    find_home,
    goes_through_tor,
    load_config,
    load_federation,
    server_address,
    shown_address,
    write_default,
)
from client.cycle import plan_of
from client.sharing import SharingSettings
from federation.errors import ConfigError, PermissionsError
from federation.tor.settings import TorSettings
from rag.ingest.feed_settings import FeedSettings

OTHER_VALUES: dict[str, Any] = {
    "node_id": "kitchen",
    "server_url": "https://example.org:9443",
    "model": "semilla",
    "revision": "abc123",
    "model_dir": "/srv/models",
    "quantization": "int8",
    "device": "cuda:1",
    "task": "qa",
    "data": ("notes.jsonl", "more.jsonl"),
    "learning_rate": 1e-3,
    "epochs": 3,
    "batch_size": 2,
    "gradient_accumulation": 4,
    "max_seq_len": 128,
    "max_minutes": 5.0,
    "seed": 7,
    "dropout": 0.1,
    "qa_subset_size": 10,
    "coding": "int8",
    "outbox_max_mb": 64,
    "max_package_age_days": 2.0,
    "embedder": "/srv/encoder",
    "embedder_threads": 3,
    "rag_corpus_path": "other.jsonl",
    "use_tor": True,
    "tor": TorSettings(mode="address", socks="127.0.0.1:9150"),
    "ingest_first": False,
    "start_jitter_s": 60.0,
    "answer_style": "extractive",
    "memory_path": "elsewhere/said.sqlite",
    "memory_days": 30,
    "sharing": SharingSettings(max_rank=2, proximal_mu=0.1, clip_norm=1.0, noise_multiplier=0.5),
    "feeds": FeedSettings(topics=("ia",), languages=("es",), max_items=9, allow_loopback=True),
}
ONION = f"{'a' * 51}m2dqd.onion"
IN_THE_PLAN = (
    "learning_rate",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "max_seq_len",
    "max_minutes",
    "seed",
    "dropout",
)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "node")


def write(home: NodeHome, **values: object) -> None:
    home.root.mkdir(parents=True, exist_ok=True)
    home.config.write_text(json.dumps(values))
    home.config.chmod(0o600)


def as_json(value: Any) -> Any:
    return (
        value.model_dump()
        if isinstance(value, TorSettings | FeedSettings | SharingSettings)
        else value
    )


def test_every_key_has_a_case_here() -> None:
    assert set(OTHER_VALUES) == set(NodeConfig.model_fields)


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_each_key_is_read_from_the_file_and_named_as_its_source(home: NodeHome, key: str) -> None:
    write(home, **{key: as_json(OTHER_VALUES[key])})
    config, sources = load_config(home)
    assert getattr(config, key) == OTHER_VALUES[key] != getattr(NodeConfig(), key)
    assert {name for name, source in sources.items() if source == "file"} == {key}


@pytest.mark.parametrize("key", IN_THE_PLAN)
def test_each_training_key_reaches_the_plan(key: str) -> None:
    config = NodeConfig.model_validate({key: OTHER_VALUES[key]})
    assert getattr(plan_of(config), key) == OTHER_VALUES[key]
    assert plan_of(config) != plan_of(NodeConfig())


def test_the_pull_toward_the_global_adapter_reaches_the_plan() -> None:
    config = NodeConfig.model_validate({"sharing": {"proximal_mu": 0.25}})
    assert plan_of(config).proximal_mu == 0.25


@pytest.mark.parametrize("key", ["learning_rate", "epochs", "data", "model"])
def test_the_environment_wins_over_the_file_and_a_flag_over_both(home: NodeHome, key: str) -> None:
    write(home, **{key: OTHER_VALUES[key]})
    default = getattr(NodeConfig(), key)
    environment = {f"CONSCIENCE_{key.upper()}": json.dumps(default)}
    config, sources = load_config(home, environment=environment)
    assert (getattr(config, key), sources[key]) == (default, "environment")
    config, sources = load_config(
        home, environment=environment, flags={key: OTHER_VALUES[key], "seed": None}
    )
    assert (getattr(config, key), sources[key]) == (OTHER_VALUES[key], "flag")
    assert sources["seed"] == "default"


@pytest.mark.parametrize(
    ("key", "known"),
    [("epoch", "epochs"), ("learn_rate", "learning_rate"), ("use_to", "use_tor"), ("rss", None)],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    home: NodeHome, key: str, known: str | None
) -> None:
    write(home, **{key: 1})
    with pytest.raises(ConfigError) as caught:
        load_config(home)
    assert f"'{key}'" in caught.value.message
    assert ("did you mean" in caught.value.message) == (known is not None)
    assert known is None or f"'{known}'" in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("learning_rate", float("nan")),
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("max_seq_len", 4),
        ("max_minutes", -1),
        ("dropout", 1.0),
        ("seed", -1),
        ("qa_subset_size", -1),
        ("quantization", "fp4"),
        ("device", "cuda0; rm"),
        ("task", "chat"),
        ("coding", "f64"),
        ("outbox_max_mb", 0),
        ("max_package_age_days", 0),
        ("data", "notes.jsonl"),
        ("answer_style", "poetic"),
        ("memory_days", -1),
    ],
)
def test_a_value_out_of_range_is_named_with_its_source(
    home: NodeHome, key: str, value: object
) -> None:
    write(home, **{key: value})
    with pytest.raises(ConfigError, match=rf"'{key}.*\(file\)"):
        load_config(home)


@pytest.mark.security
@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1",
        "http://192.0.2.1:9443/",
        "http://example.org",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "ftp://127.0.0.1",
        "192.0.2.1:9443",
        "example.org",
        "https://",
        "https://host:port",
    ],
)
def test_h18_a_server_that_is_not_https_onion_or_loopback_is_refused(
    home: NodeHome, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, server_url=url)
    with pytest.raises(ConfigError, match="server_url"):
        load_config(home)
    for command in (["config", "check"], ["run"], ["join", "conscience1:x"], ["doctor"]):
        code = run(["--home", str(home.root), *command])
        assert code == (1 if command == ["doctor"] else 2)
    assert "server_url" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://example.org", "example.org:443"),
        ("https://192.0.2.1:9443/", "192.0.2.1:9443"),
        ("https://[2001:db8::1]:9443", "[2001:db8::1]:9443"),
        ("http://127.0.0.1:9443", "127.0.0.1:9443"),
        ("http://localhost:9443", "localhost:9443"),
        (f"http://{ONION}", f"{ONION}:443"),
        (f"https://{ONION.upper()}/", f"{ONION}:443"),
        (f"http://{ONION}:8443", f"{ONION}:8443"),
    ],
)
def test_a_server_url_of_the_settings_overrides_the_invitation(url: str, address: str) -> None:
    assert server_address(NodeConfig(server_url=url), "other:1") == address
    assert server_address(NodeConfig(), "other:1") == "other:1"
    assert parse_address(url)[1] == int(address.rpartition(":")[2])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"http://{ONION[1:]}", "56 characters before .onion, this one 55"),
        (f"http://b{ONION[1:]}", "checksum"),
        ("http://expyuzz4wqqyqhjn.onion", "version 2"),
        (f"http://www.{ONION}", "56 characters followed by"),
    ],
)
def test_an_onion_address_that_cannot_be_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NodeConfig(server_url=url)


@pytest.mark.security
@pytest.mark.parametrize(
    ("use_tor", "address", "is_used"),
    [
        (None, f"{ONION}:443", True),
        (None, f"{ONION.upper()}:443", True),
        (None, "example.org:9443", False),
        (None, "[2001:db8::1]:9443", False),
        (True, "example.org:9443", True),
        (False, "example.org:9443", False),
        (False, "127.0.0.1:9443", False),
    ],
)
def test_h27_an_onion_needs_tor_and_the_switch_is_for_everything(
    use_tor: bool | None, address: str, is_used: bool
) -> None:
    assert goes_through_tor(NodeConfig(use_tor=use_tor), address) is is_used


@pytest.mark.security
@pytest.mark.parametrize(("use_tor", "address"), [(False, f"{ONION}:443"), (True, "10.0.0.7:9443")])
def test_h27_what_does_not_go_together_goes_nowhere(use_tor: bool, address: str) -> None:
    with pytest.raises(ConfigError) as caught:
        goes_through_tor(NodeConfig(use_tor=use_tor), address)
    assert "use_tor" in caught.value.hint
    assert ONION[:8] not in caught.value.message


@pytest.mark.security
def test_h27_an_onion_address_is_shown_to_nobody() -> None:
    assert "onion" in shown_address(f"{ONION}:443")
    assert ONION[:8] not in shown_address(f"{ONION}:443")
    assert shown_address("example.org:9443") == "example.org:9443"


def test_a_config_file_open_to_others_is_refused(home: NodeHome) -> None:
    write(home, epochs=2)
    home.config.chmod(0o644)
    with pytest.raises(PermissionsError, match="open to other users"):
        load_config(home)


def test_the_default_home_is_private_and_holds_every_key(home: NodeHome) -> None:
    path = write_default(home)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert set(json.loads(path.read_text())) == set(NodeConfig.model_fields)
    assert load_config(home, environment={})[0] == NodeConfig()
    write(home, epochs=9)
    write_default(home)
    assert load_config(home)[0].epochs == 9


def test_the_home_is_the_flag_else_the_environment_else_the_platforms(tmp_path: Path) -> None:
    environment = {"CONSCIENCE_HOME": str(tmp_path / "from-environment")}
    assert find_home(tmp_path / "flag", environment).root == tmp_path / "flag"
    assert find_home(None, environment).root == tmp_path / "from-environment"
    assert find_home(None, {}).root.name == "conscienceai"
    assert find_home(Path("relative"), {}).root.is_absolute()


def test_everything_of_a_node_lies_below_its_home(home: NodeHome) -> None:
    names = [name for name, value in vars(NodeHome).items() if isinstance(value, property)]
    paths = [getattr(home, name) for name in names]
    assert len(set(paths)) == len(paths) > 10
    assert all(path.is_relative_to(home.root) for path in paths)


def test_a_node_that_has_not_joined_says_so(home: NodeHome) -> None:
    with pytest.raises(ConfigError, match="has not joined") as caught:
        load_federation(home)
    assert "flower-client join" in caught.value.hint


def test_effective_settings_name_value_and_source(
    home: NodeHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, epochs=3)
    monkeypatch.setenv("CONSCIENCE_SEED", "11")
    assert run(["config", "show", "--effective", "--json", "--home", str(home.root)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["epochs"] == {"value": 3, "source": "file"}
    assert shown["seed"] == {"value": 11, "source": "environment"}
    assert shown["data"] == {"value": [DEFAULT_DATA], "source": "default"}
    assert run(["config", "show", "--json", "--home", str(home.root)]) == 0
    assert json.loads(capsys.readouterr().out) == {"epochs": 3}
