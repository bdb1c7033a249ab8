"""Part `memory` of `bench_round`: what a round's replies cost the ServerApp, ours and stock.

Everything that is measured is real: a SuperLink, its executor, a ServerApp process that runs our
strategy as the operator's does (only the gate is a stand-in: it would load torch) or stock FedAvg.
The nodes are simulated (`bench_round_fleet`). Ours hand over valid signed packages, stock's an
ArrayRecord of as many bytes. The process measures itself: Linux's own peak of resident memory.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_merge import FACTS, adapter_spec
from bench_round_app import reply_of
from bench_round_fleet import Answer, Fleet
from bench_round_link import Link, wait_for_report
from bench_round_table import Line, Section
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from client.packaging import PackageFacts, make_package
from federation import durable, padding, protocol
from federation.adapter.format import AdapterSpec, initial_arrays, write_adapter_folder
from federation.adapter.manifest import sha256_of
from federation.adapter.signing import SigningKey, pseudonym
from federation.adapter.tensors import Arrays
from federation.protocol import Body, CollectReply, DeployReply, HelloReply, Offer
from server.config import ServerHome, new_config, save_config
from server.intake import Intake
from server.nodes import Nodes
from server.registry import Registry

MOST_ADAPTERS = 3.0
START_S, EACH_S = 900.0, 20.0  # a busy machine takes minutes to start a ServerApp
IDLE_S = 0.05
BF16_BYTES, F32_BYTES = 2, 4
OURS, STOCK = "ours", "stock"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Person:
    """A simulated volunteer: key, and where its package lies."""

    key: SigningKey
    package: Path
    sha256: str

    @property
    def node(self) -> str:
        """Its pseudonym."""
        return pseudonym(self.key.public_hex)

    def answer(self, message: Message) -> RecordDict:
        """Answer hello, collect and deploy as a node does that holds one package."""
        kind = message.metadata.message_type
        if kind == "train":
            data = self.package.read_bytes()
            facts: dict[str, Any] = {"sha256": self.sha256, "size_bytes": len(data)}
            return _reply(CollectReply(node=self.node, held_version=0, **facts), padding.pad(data))
        if kind == "evaluate":
            return _reply(DeployReply(node=self.node, held_version=1, accepted=True))
        size = self.package.stat().st_size
        offer = Offer(sha256=self.sha256, global_version=0, size_bytes=size)
        return _reply(HelloReply(node=self.node, held_version=0, offers=(offer,)))


def measure(counts: Sequence[int], reply_mb: float, say: Say) -> Section:
    """Run both sides for each number of replies."""
    runs: list[dict[str, Any]] = []
    for count in counts:
        for side in (OURS, STOCK):
            say(f"memory: {side}, {count} replies of {reply_mb:g} MB")
            with tempfile.TemporaryDirectory(prefix="bench-round-") as folder:
                runs.append(_one(side, count, reply_mb, Path(folder)))
    return _section(runs)


def _one(side: str, count: int, reply_mb: float, folder: Path) -> dict[str, Any]:
    if side == OURS:
        spec = adapter_spec(reply_mb * F32_BYTES / BF16_BYTES)
        people, settings = _make_home(folder, spec, count)
        answers: list[Answer] = [person.answer for person in people]
        size = people[0].package.stat().st_size
    else:
        spec = adapter_spec(reply_mb)
        answers = [functools.partial(_stock_answer, spec, seed) for seed in range(count)]
        write_adapter_folder(folder / "adapter", initial_arrays(spec, 0), spec, None)
        settings, size = {"adapter": folder / "adapter"}, spec.tensor_bytes
    report = folder / "report.json"
    with Link(folder) as link, Fleet(link.address, answers) as fleet:
        if side == OURS:
            _admit(ServerHome(folder / "home"), people, fleet)
        link.start_run({"side": side, "nodes": count, "report": report} | settings)
        measured = _serve(fleet, report, START_S + count * EACH_S)
    if measured["merged"] != count:
        raise RuntimeError(f"{side}: only {measured['merged']} of {count} were merged: {measured}")
    facts = {"side": side, "replies": count, "reply_bytes": size}
    return facts | {"adapter_bytes": spec.tensor_bytes} | measured


def _serve(fleet: Fleet, report: Path, limit_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + limit_s
    while not (text := wait_for_report(report, deadline)):
        if not fleet.sweep():
            time.sleep(IDLE_S)
    found: dict[str, Any] = json.loads(text)
    return found


def _make_home(
    folder: Path, spec: AdapterSpec, count: int
) -> tuple[list[Person], dict[str, Path | int | str]]:
    """An operator's home with version 0, and the packages of `count` volunteers."""
    home = ServerHome(folder / "home")
    save_config(home, new_config({"quorum": count}))
    key = SigningKey.generate()
    key.save(home.signing_key)
    start = initial_arrays(spec, 0)
    registry = Registry(home.registry, key, key.public_hex)
    manifest = registry.publish(start, strategy="initial", spec=spec)
    facts = PackageFacts(**{**vars(FACTS), "global_sha256": sha256_of(manifest)})
    people = []
    for seed in range(count):
        own = SigningKey.generate()
        data, _lost = make_package(changed(start, seed), start, spec, facts, own)
        path = folder / "packages" / f"{seed}.zip"
        durable.write_bytes(path, data)
        people.append(Person(own, path, hashlib.sha256(data).hexdigest()))
    return people, {"home": home.root}


def _admit(home: ServerHome, people: Sequence[Person], fleet: Fleet) -> None:
    """Write the volunteers into the node book, as enrolment does."""
    nodes = Nodes(home.nodes_db)
    Intake(home.intake_db)
    for number, (person, each) in enumerate(zip(people, fleet.nodes, strict=True)):
        name, token = f"node-{number}", f"{number:064x}"
        nodes.invite_for(name, token_sha256=token, seconds=START_S)
        nodes.claim(token, supernode_key=name, signing_key=person.key.public_hex)
        number_text = str(each.node.node_id)
        nodes.activate(name, pseudonym=person.node, flower_node_id=number_text)


def _stock_answer(spec: AdapterSpec, seed: int, _message: Message) -> RecordDict:
    return reply_of(changed(initial_arrays(spec, 0), seed))


def changed(start: Arrays, seed: int) -> Arrays:
    """`start` as training of a little might leave it."""
    rng = np.random.default_rng(seed)
    return {
        name: a + np.float32(1e-3) * rng.standard_normal(a.shape, np.float32)
        for name, a in start.items()
    }


def _reply(body: Body, blob: bytes | None = None) -> RecordDict:
    key = protocol.BODY_KEY
    content = RecordDict({key: ConfigRecord({key: body.model_dump_json()})})
    if blob is not None:
        array = Array(dtype="uint8", shape=(len(blob),), stype=protocol.BLOB_KIND, data=blob)
        content[protocol.BLOB_KEY] = ArrayRecord({protocol.BLOB_KEY: array})
    return content


def _section(runs: Sequence[dict[str, Any]]) -> Section:
    return Section(
        title="ServerApp memory above its idle size",
        lines=[_line(run) for run in runs],
        notes=(
            "adapter: its weights in f32; a reply has as many bytes on both sides; ours is bf16,",
            "of an adapter twice as large. Peak of resident memory from just before the replies",
            "are asked for until they are merged, in a real ServerApp under a real SuperLink;",
            "nodes simulated; the gate replaced by one that accepts: torch is not in the figures.",
        ),
        figures={"runs": list(runs)},
    )


def _line(run: dict[str, Any]) -> Line:
    idle, adapter, reply = run["idle"], run["adapter_bytes"], run["reply_bytes"]
    grown = max(run["gathered"], run["reduced"]) - idle
    text = f"{grown / adapter:.1f} adapters = {grown / reply:.1f} replies, {grown / 1e6:.0f} MB"
    text += f" (until gathered {(run['gathered'] - idle) / 1e6:.0f},"
    text += f" with publishing {(run['end'] - idle) / 1e6:.0f}; idle {idle / 1e6:.0f})"
    is_ours = run["side"] == OURS
    return Line(
        what=f"{run['side']}, {run['replies']} replies of {reply / 1e6:.1f} MB",
        measured=text,
        goal=f"≤ {MOST_ADAPTERS:g} adapters" if is_ours else "",
        met=grown <= MOST_ADAPTERS * adapter if is_ours else None,
    )
