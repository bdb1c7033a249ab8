"""Part `round` of `bench_tor`: many volunteers' nodes on one onion service complete a round.

Server, tors, onion service, invitations and joining are the real ones, and each node has its own
forwarder. But the nodes share one tor, which holds one key to an onion, and instead of Flower's
processes they run `bench_round_fleet`: twenty of those would need 6 GB.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench_merge import FACTS
from bench_round_fleet import Fleet, Simulated
from bench_round_memory import Person, changed
from bench_round_table import Line, Section
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from tor_network import PrivateTor
from tor_process import TorProcess
from town import Town

from client import keys
from client.adapters import AdapterStore
from client.config import NodeConfig, NodeHome, load_federation
from client.join import join
from client.packaging import PackageFacts, make_package
from federation import durable
from federation.tor.control import Control
from federation.tor.forwarder import Forwarder
from federation.tor.socks import SocksAddress
from federation.tor.way import split_address

IDLE_S = 0.2
Say = Callable[[str], None]


def measure(folder: Path, count: int, scheduler: str, say: Say) -> Section:
    """Set everything up, run one round, count who is in it."""
    with ExitStack() as stack:
        say(f"round: a Tor network, a server, {count} nodes that join")
        network = stack.enter_context(
            PrivateTor(folder / "network", scheduler=scheduler, interval_s=300)
        )
        tor = {"mode": "own", "torrc": str(network.torrc_file)}
        town = Town(folder / "town", say=say, tor=tor)
        stack.callback(town.stop)
        town.start_server("--base", "semilla", "--quorum", str(count))
        shared = network.client("volunteers")
        begun = time.perf_counter()
        homes = _join_all(town, shared, count)
        joined_s = time.perf_counter() - begun
        _lend_key(shared, homes[0])
        socks = SocksAddress.parse(shared.socks, is_extended=True)
        nodes = [_node_of(home, seed, socks, stack) for seed, home in enumerate(homes)]
        say("round: it begins")
        begun = time.perf_counter()
        report = _round(town, nodes)
        return section_of(count, report, joined_s, time.perf_counter() - begun)


def section_of(count: int, report: Mapping[str, Any], joined_s: float, round_s: float) -> Section:
    """Judge a round by its report: everybody's package is in the candidate, nobody was lost."""
    outcome, lost = report["outcome"], len(report["lost"])
    # Training is not simulated: packages hold noise, and the gate may turn down their merge.
    merged = len(outcome["merged"]) + sum(each["code"] == "gate" for each in outcome["refused"])
    measured = f"{merged} merged, {lost} lost, in {round_s:.0f} s"
    is_met = merged == count and not lost
    return Section(
        title="A round through one onion service",
        lines=[
            Line(f"{count} nodes", measured, f"all {count}", is_met),
            Line("invited and joined", f"{joined_s:.0f} s"),
        ],
        notes=(
            "real server, onion service, joining and forwarders; the nodes share one tor and",
            f"answer from disk, with noise. The gate: {outcome['reason']}",
        ),
        figures={"joined_s": joined_s, "round_s": round_s, "report": dict(report)},
    )


def _join_all(town: Town, tor: TorProcess, count: int) -> list[NodeHome]:
    config = NodeConfig.model_validate(
        {
            "tor": {"mode": "address", "socks": tor.socks, "control": _control(tor)},
            "start_jitter_s": 0,
        }
    )

    homes = [NodeHome(town.root / f"node{number:02d}") for number in range(count)]
    for home in homes:
        join(home, config, str(town.invite(home.root.name)))
    return homes


def _lend_key(tor: TorProcess, home: NodeHome) -> None:
    """Let a tor visit the onion for good; joining took its key away again."""
    host, _port = split_address(load_federation(home).address)
    with Control.at(_control(tor)) as control:
        control.add_client_key(host, keys.onion_key(home.onion_key))


def _control(tor: TorProcess) -> str:
    written = (tor.folder / "control_port").read_text(encoding="ascii")
    return written.strip().removeprefix("PORT=")


def _node_of(home: NodeHome, seed: int, socks: SocksAddress, stack: ExitStack) -> Simulated:
    """A simulated node with the home of one that joined, at the end of its own forwarder."""
    federation = load_federation(home)
    host, port = split_address(federation.address)
    own = keys.load_or_create(home.keys)
    private = serialization.load_ssh_private_key(own.supernode_private.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{own.supernode_private.name} is no SuperNode's key")
    public = private.public_key()
    way = stack.enter_context(Forwarder(socks, host, port, purpose=home.root.name))
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    client = FleetHttpClient.from_server_address(
        way.address,
        False,
        home.ca.read_bytes(),
        interceptors=[version, NodeAuthHttpInterceptor(private, public)],
    )
    stack.callback(client.close)
    active = client.ActivateNode(
        ActivateNodeRequest(
            public_key=public_key_to_bytes(public), heartbeat_interval=HEARTBEAT_MAX_INTERVAL
        )
    )
    person = _person(home, seed)
    return Simulated(client, Node(node_id=active.node_id), person.answer)


def _person(home: NodeHome, seed: int) -> Person:
    store = AdapterStore(home, load_federation(home))
    start = store.current()
    if start is None:
        raise RuntimeError(f"{home.root.name} was given no adapter")
    facts = PackageFacts(**{**vars(FACTS), "global_sha256": start.sha256})
    key = keys.load_or_create(home.keys).signing
    data, _lost = make_package(changed(start.arrays, seed), start.arrays, store.spec, facts, key)
    path = home.root / "package.zip"
    durable.write_bytes(path, data)
    return Person(key, path, hashlib.sha256(data).hexdigest())


def _round(town: Town, nodes: Sequence[Simulated]) -> dict[str, Any]:
    """Let every node look for messages, each in its own time, until the round is over."""
    over = threading.Event()

    def live(node: Simulated) -> None:
        alone = _One(node)
        while not over.is_set():
            if not alone.sweep():
                over.wait(IDLE_S)

    with ThreadPoolExecutor(len(nodes)) as pool:
        lives = [pool.submit(live, node) for node in nodes]
        try:
            report = town.round()
        finally:
            over.set()
    for each in lives:
        each.result()
    return report


class _One(Fleet):
    """A fleet of one node, connected already."""

    def __init__(self, node: Simulated) -> None:
        self.nodes = [node]
