"""Part `bytes` of `bench_round`: what a node sends in one round, counted at the gateway.

A real server, two real nodes (one codes in bf16, one in int8), one round of our strategy. Then the
nodes stop and a plain `flower-supernode` takes part in a round of stock FedAvg on the same server:
it returns the same adapter in f32. Request bodies count, polls, heartbeats and all; not headers,
not TLS. Training is as short as it can be: the size of a package does not depend on it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench_round_link import settings_of, stop, wait_for_report, write_app
from bench_round_table import Line, Section
from demo_data import starter, without_field
from night_demo import COUNTED_S, SETTINGS
from town import Town, program

from client.config import NodeHome, load_federation
from client.keys import load_or_create
from federation.flower_env import flower_environment
from federation.processes import free_port
from server.config import ServerHome
from server.control import SuperLink
from server.registry import Registry

LIMITS = {"bf16": 0.55, "int8": 0.30}
STOCK = "stock"
CHUNKS = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"
ROWS = 16
ROUND_S, ONLINE_S = 900.0, 300.0
Say = Callable[[str], None]


def measure(rank: int, say: Say) -> Section:
    """Run one round of each and compare what went up."""
    with tempfile.TemporaryDirectory(prefix="bench-bytes-") as folder, ExitStack() as stack:
        town = Town(Path(folder), say=lambda line: say(f"bytes: {line}"))
        stack.callback(town.stop)
        ours, report = _our_round(town, rank)
        stock = _stock_round(town, say)
        size = Registry(ServerHome(town.server).registry, None, "").spec.tensor_bytes
    return section_of(ours, stock, {"adapter_bytes": size, "rank": rank, "report": report})


def section_of(ours: Mapping[str, int], stock: int, facts: Mapping[str, Any]) -> Section:
    """Judge bytes up, by coding, against stock's."""
    lines = [Line(f"{STOCK}, f32", f"{stock:,} B")]
    for coding, limit in LIMITS.items():
        share = ours[coding] / stock
        text = f"{ours[coding]:,} B = {share:.3f} × {STOCK}"
        lines.append(Line(f"ours, {coding}", text, f"≤ {limit:g} × {STOCK}", share <= limit))
    published = facts["report"]["outcome"]["version"] is not None
    return Section(
        title="Bytes up per node and round, at the gateway",
        lines=lines,
        notes=(
            f"adapter of {facts['adapter_bytes']:,} B in f32, rank {facts['rank']}; request",
            "bodies with polls and heartbeats of the round, without headers and TLS; our round",
            f"{'published and deployed a version' if published else 'published nothing'}.",
        ),
        figures={"ours": dict(ours), STOCK: stock, **facts},
    )


def _our_round(town: Town, rank: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Bytes up of each node, named by its coding, and the round's report."""
    town.start_server("--base", "semilla", "--quorum", "2", "--rank", str(rank))
    people = list(starter().train.values())
    for coding, own in zip(LIMITS, people, strict=False):
        rows = [without_field(row) for row in own[:ROWS]]
        town.join(coding, rows, SETTINGS | {"coding": coding})
    town.volunteers("contribute")
    with _counted(town) as up:
        report = town.round()
    if len(report["outcome"]["merged"]) + len(report["outcome"]["refused"]) != len(LIMITS):
        raise RuntimeError(f"not every package arrived: {report}")
    town.stop(*LIMITS)
    return {coding: up[coding] for coding in LIMITS}, report


def _stock_round(town: Town, say: Say) -> int:
    """Bytes up of a stock node in a stock round on our server."""
    invitation = town.invite(STOCK)
    town.volunteer(STOCK, "init")
    town.volunteer(STOCK, "join", str(invitation))
    home = ServerHome(town.server)
    link, report = SuperLink(home), town.root / "report.json"
    settings = {"side": STOCK, "nodes": 1, "report": report, "adapter": home.registry / "v0"}
    with _supernode(NodeHome(town.root / STOCK)):
        _wait_alone(link)
        say("bytes: a round of stock FedAvg")
        with _counted(town) as up:
            link.start_run(write_app(town.root / "stock-app"), settings_of(settings))
            deadline = time.monotonic() + ROUND_S
            while not (text := wait_for_report(report, deadline)):
                time.sleep(COUNTED_S)
    if '"merged": 1' not in text:
        raise RuntimeError(f"the stock round failed: {text}")
    return up[STOCK]


@contextmanager
def _counted(town: Town) -> Iterator[dict[str, int]]:
    """Bytes that each node sends during the block; known after it."""
    up: dict[str, int] = {}
    time.sleep(COUNTED_S)
    before = town.traffic()
    yield up
    time.sleep(COUNTED_S)
    up |= {name: sent - before.get(name, (0, 0))[0] for name, (sent, _) in town.traffic().items()}


@contextmanager
def _supernode(home: NodeHome) -> Iterator[None]:
    """A plain `flower-supernode`, with the keys of a node that has joined."""
    environment = flower_environment(os.environ, home.flwr)
    environment.pop(CHUNKS)  # stock's own
    beside = program("flower-supernode").parent  # it starts its executor by bare name
    environment["PATH"] = f"{beside}{os.pathsep}{environment.get('PATH', os.defpath)}"
    arguments = [
        *("--superlink", load_federation(home).address),
        *("--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(load_or_create(home.keys).supernode_private)),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    with (home.root / "supernode.log").open("wb") as log:
        child = subprocess.Popen(
            [str(program("flower-supernode")), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        yield
    finally:
        stop(child)


def _wait_alone(link: SuperLink) -> None:
    """Until the stock node, and no other, is online: stock FedAvg asks every node it finds."""
    deadline = time.monotonic() + ONLINE_S
    while list(link.nodes().values()).count("online") != 1:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not exactly one node is online: {link.nodes()}")
        time.sleep(1.0)
