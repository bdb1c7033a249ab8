"""What a node answers, its ClientApp called as Flower calls it; nothing is trained here."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from client import client_app, sent
from client.adapters import AdapterStore
from client.config import NodeConfig, NodeHome, find_home, load_federation
from client.cycle import load_data
from client.outbox import open_outbox
from client.record import run_folder, run_key
from federation import durable, padding, protocol, settings
from federation.adapter.base_delta import add_base
from federation.adapter.format import initial_arrays
from federation.adapter.instructions import Terms
from federation.adapter.manifest import sha256_of
from federation.adapter.signing import SigningKey
from federation.protocol import Collect, CollectReply
from server.registry import Registry
from strategies.flower_message import blob_of, blob_record, body_of, compose, with_base
from tests.adapter_samples import make_spec, random_arrays
from tests.fake_grid import FakeGrid
from tests.global_samples import Chain, joined_home, make_federation, put_package

SPEC = make_spec(layers=1)
CONTEXT: Any = None  # the ClientApp keeps its state on disk


@pytest.fixture
def chain() -> Chain:
    made = Chain(SPEC)
    made.publish()
    return made


@pytest.fixture
def home(chain: Chain) -> NodeHome:
    """The home that CONSCIENCE_HOME names, holding version 0."""
    home = joined_home(find_home().root, chain)
    AdapterStore(home, load_federation(home)).install(chain.packages[0])
    return home


def collect(body: Collect) -> Message:
    grid = FakeGrid({7: lambda message: client_app.collect(message, CONTEXT)})
    message = compose(body, node_id=7, kind="train", ttl_s=60)
    (reply,) = grid.send_and_receive([message])
    assert isinstance(reply, Message)
    return reply


def contributed_today(home: NodeHome, chain: Chain) -> None:
    """Leave behind what a contribution of today leaves."""
    rows = [json.dumps({"text": f"La luna gira, dice la página {n}."}) for n in range(6)]
    durable.write_text(home.root / NodeConfig().data[0], "\n".join(rows) + "\n")
    day = date.today().isoformat()  # noqa: DTZ011 - a node lives by its local day
    data = load_data(home, NodeConfig(), day)
    key = run_key(day, data.task, data.sha256, sha256_of(chain.manifests[0]))
    run_folder(home.runs, day, key).advance("done")


@pytest.mark.security
@pytest.mark.privacy
def test_h20_why_a_live_node_trained_nothing_is_told_without_its_folders(home: NodeHome) -> None:
    reply = collect(Collect(mode="live", version=0))
    body = body_of(reply, CollectReply)
    assert (body.note, body.sha256, blob_of(reply)) == ("NoDataError", "", None)
    assert str(home.root) not in str(reply.content.config_records[protocol.BODY_KEY])


def test_a_live_node_with_nothing_new_hands_over_what_is_wanted(
    home: NodeHome, chain: Chain
) -> None:
    contributed_today(home, chain)
    sha256 = put_package(home, SPEC)
    reply = collect(Collect(mode="live", want=sha256, version=0))
    blob, body = blob_of(reply), body_of(reply, CollectReply)
    assert blob is not None
    assert body.sha256 == sha256
    assert len(blob) == padding.padded_size(body.size_bytes) > body.size_bytes
    with open_outbox(home, NodeConfig()) as outbox:
        assert outbox.read(sha256) == padding.cut(blob, body.size_bytes)
        assert outbox.entry(sha256).state == "handed_over"
    (noted,) = sent.read(home.sent)
    facts = (noted.kind, noted.sha256, noted.size_bytes, noted.wire_bytes)
    assert facts == ("package", sha256, body.size_bytes, len(blob))


def test_a_live_node_with_nothing_new_and_nothing_wanted_says_so(
    home: NodeHome, chain: Chain
) -> None:
    contributed_today(home, chain)
    reply = collect(Collect(mode="live", version=0))
    assert blob_of(reply) is None
    assert body_of(reply, CollectReply).note == "nothing new to contribute"


def test_a_package_that_is_gone_is_a_note_and_no_package(home: NodeHome) -> None:
    sha256 = put_package(home, SPEC)
    (home.outbox / f"{sha256}.zip").write_bytes(b"damaged")
    reply = collect(Collect(want=sha256, version=0))
    assert blob_of(reply) is None
    assert body_of(reply, CollectReply).note == "FormatError"


def test_what_a_version_adds_to_the_base_rides_beside_it(tmp_path: Path) -> None:
    key = SigningKey.generate()
    registry = Registry(tmp_path / "registry", key, key.public_hex)
    registry.publish(initial_arrays(SPEC, 0), strategy="initial", spec=SPEC)
    home = find_home()
    settings.save(make_federation(SPEC, key.public_hex), home.federation)
    store = AdapterStore(home, load_federation(home))
    for seed in (1, 2):
        base = random_arrays(make_spec(layers=1, rank=2), 1)
        base = add_base(base, random_arrays(make_spec(layers=1, rank=2), 2)) if seed == 2 else base
        registry.publish(random_arrays(SPEC, seed), strategy="flora", terms=Terms(base=base))
        held = store.held_version()
        blob = blob_record(registry.package(seed))
        body = Collect(version=seed, chain=registry.chain(held))
        grid = FakeGrid({7: lambda message: client_app.collect(message, CONTEXT)})
        for record, version in ((blob, held), (with_base(blob, registry.base_since(held)), seed)):
            message = compose(body, node_id=7, kind="train", ttl_s=60, blob=record)
            (reply,) = grid.send_and_receive([message])
            assert body_of(reply, CollectReply).held_version == version
        current = store.current()
        assert current is not None
        assert all((current.base[name] == base[name]).all() for name in base)
