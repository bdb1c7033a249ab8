"""The night's exchanges over a grid: who is asked, what is merged, who hears what."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
from flwr.app import Message

from server.onion_clients import OnionClients
from strategies.adapter_fedavg import RoundReport
from strategies.round import RoundPolicy
from strategies.spool import Arrival
from strategies.streaming import Timing
from strategies.weigh import WeighPolicy
from tests.adapter_samples import make_spec
from tests.fake_grid import AwayGrid, WatchfulGrid
from tests.round_bench import Bench, HandNode, collected, equal

ABSENCE_S = 60.0


def test_a_night_merges_every_package_and_tells_every_node(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2, 3):
        bench.add(seed)
    report = bench.run(quorum=3).report
    assert report.outcome["version"] == 1
    assert bench.registry.current == 1
    assert sorted(bench.registry.merged_inputs()) == sorted(p.sha256 for p in bench.people)
    assert all(p.held == 1 for p in bench.people)
    assert [v.state for p in bench.people for v in p.told] == ["merged"] * 3
    assert {v.version for p in bench.people for v in p.told} == {1}


def test_a_node_that_was_away_for_a_while_is_asked_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    away, _here = bench.add(1), bench.add(2)
    report = run_with_absence(bench, away, looks=3)
    assert report.lost == []
    assert len(report.outcome["merged"]) == 2
    assert away.held == 1


def test_a_node_that_stays_away_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    gone, here = bench.add(1), bench.add(2)
    report = run_with_absence(bench, gone, looks=10_000)
    assert report.lost == [{"node": gone.node, "at": "hello", "why": "no answer"}]
    assert [record["node"] for record in report.outcome["merged"]] == [here.node]
    assert report.seconds["hello"] == pytest.approx(ABSENCE_S, abs=2.0)


def run_with_absence(bench: Bench, person: HandNode, *, looks: int) -> RoundReport:
    """One round, with time that passes only in pauses."""
    now = [0.0]
    timing = Timing(
        absence_s=ABSENCE_S,
        clock=lambda: now[0],
        sleep=lambda seconds: now.__setitem__(0, now[0] + seconds),
    )
    grid = AwayGrid({p.flower_id: p.answer for p in bench.people}, {person.flower_id: looks})
    strategy = bench.strategy(timing)
    strategy.run(grid)  # type: ignore[arg-type]
    return strategy.report


def test_the_merge_has_the_same_bits_for_any_order_of_arrival(tmp_path: Path) -> None:
    one = Bench(tmp_path / "one")
    other = Bench(tmp_path / "other", twin=one)
    for seed in (1, 2, 3):
        twin = one.add(seed)
        other.add(seed, key=twin.key).package = twin.package
    one.run(order=[100, 101, 102])
    other.run(order=[102, 100, 101])
    assert one.registry.current == 1
    assert equal(one.current(), other.current())


@pytest.mark.security
def test_h14_a_package_is_merged_once_however_often_it_is_offered(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    person = bench.add(1)
    bench.run()
    after_one = bench.current()
    report = bench.run().report
    assert report.outcome["version"] is None
    assert bench.registry.current == 1
    assert equal(bench.current(), after_one)
    assert [verdict.sha256 for verdict in person.told].count(person.sha256) >= 1


def test_after_a_rotation_each_node_hears_its_new_address_though_nothing_else_is_new(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    bench.onion = OnionClients(tmp_path / "onion", most=1)
    bench.onion.settle()
    for seed in (1, 2):
        bench.onion.grant(f"node-{bench.people.index(bench.add(seed))}")
    bench.run()
    bench.onion.rotate(retires_at=4e9)
    bench.run()
    for _ in range(2):
        bench.run(quorum=9)
    hosts = [shard.host for shard in bench.onion.current()]
    for person, host in zip(bench.people, hosts, strict=True):
        assert person.addresses == ["", *[f"{host}:443"] * 3]
        assert person.blobs == 1
    bench.onion.drop_retired(4e9)
    bench.run(quorum=9)
    assert all(len(person.addresses) == 4 for person in bench.people)


def test_the_global_adapter_rides_along_only_to_nodes_that_lack_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2):
        bench.add(seed)
    bench.people[1].held = -1
    bench.run(quorum=2)
    assert [person.blobs for person in bench.people] == [1, 2]


def test_too_few_updates_publish_nothing_and_wait_for_the_next_night(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.add(1)
    first = bench.run(quorum=2).report
    assert (first.outcome["version"], first.outcome["waiting"]) == (None, 1)
    bench.add(2)
    second = bench.run(quorum=2).report
    assert second.outcome["version"] == 1
    assert len(second.outcome["merged"]) == 2


def test_a_killed_round_is_finished_from_the_spool_without_asking_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2):
        bench.add(seed)
    bench.run(quorum=3)  # both packages lie in the spool when "the process dies"
    asked: list[str] = []

    def note(_message: Message, node: HandNode) -> None:
        asked.append(node.node)

    for person in bench.people:
        person.twist = note
    report = bench.run(quorum=2).report
    assert report.outcome["version"] == 1
    assert asked == []


@pytest.mark.security
def test_h15_a_worse_candidate_is_kept_for_study_and_never_published(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    person = bench.add(1)
    before = bench.current()
    bench.gate.accepts = False
    report = bench.run().report
    assert report.outcome["version"] is None
    assert equal(bench.current(), before)
    assert len(bench.gate.kept) == 1
    assert [(v.state, v.reason.split(":")[0]) for v in person.told] == [("refused", "gate")]


@pytest.mark.security
def test_h06_what_nodes_are_sent_names_no_node(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2):
        bench.add(seed)
    strategy = bench.run()
    sent = "".join(strategy.desk.chain(-1)) + strategy.desk.package().decode("latin-1")
    for person in bench.people:
        assert person.sha256 in sent
        assert person.node not in sent
        assert person.key.public_hex not in sent
    merged = {record["sha256"]: record["node"] for record in strategy.report.outcome["merged"]}
    assert merged == {person.sha256: person.node for person in bench.people}


@pytest.mark.security
def test_h06_a_stranger_is_never_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.add(1)
    bench.nodes.ban("node-0")
    report = bench.run().report
    assert (report.nodes, report.outcome["version"]) == ([], None)


@pytest.mark.security
def test_h07_a_node_speaking_in_another_name_is_a_lost_reply(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    honest, liar = bench.add(1), bench.add(2)
    liar.twist = lambda message, node: collected(
        message, node.package, node=honest.node, sha256=node.sha256
    )
    report = bench.run().report
    assert [record["node"] for record in report.outcome["merged"]] == [honest.node]
    assert any("another node's name" in lost["why"] for lost in report.lost)


@pytest.mark.security
@pytest.mark.parametrize(("examples", "share"), [(12, 0.5), (10**6, 5 / 6)])
def test_h13_example_counts_are_capped(tmp_path: Path, examples: int, share: float) -> None:
    bench = Bench(tmp_path)
    bench.add(1, examples=12)
    loud = bench.add(2, examples=examples)
    report = bench.run(weigh=WeighPolicy(by="capped")).report
    weights = {record["node"]: record["weight"] for record in report.outcome["merged"]}
    assert weights[loud.node] == pytest.approx(share)


@pytest.mark.parametrize("weigher", ["clip", "uniform+sybil+rfa"])
def test_a_weigher_measures_the_packages_of_the_round(tmp_path: Path, weigher: str) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2, 3):
        bench.add(seed)
    report = bench.run(weigh=WeighPolicy(by=weigher)).report
    weights = [record["weight"] for record in report.outcome["merged"]]
    assert report.outcome["version"] == 1
    assert len(weights) == 3
    assert 0.9 < sum(weights) <= 1 + 1e-9


def test_too_few_for_a_weigher_is_as_too_few_for_the_quorum(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2, 3):
        bench.add(seed)
    outcome = bench.run(weigh=WeighPolicy(by="multikrum")).report.outcome
    assert outcome["version"] is None
    assert "at least 5 updates, not 3" in outcome["reason"]
    assert outcome["waiting"] == 3
    assert bench.run().report.outcome["version"] == 1


@pytest.mark.parametrize("strategy", ["flexlora", "fedrot", "lorafair", "rbla", "zeropad", "fedex"])
def test_a_round_runs_with_any_rule_for_nodes_that_send_both_factors(
    tmp_path: Path, strategy: str
) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2, 3):
        bench.add(seed)
    report = bench.run(strategy=strategy).report
    assert report.outcome["version"] == 1
    assert bench.registry.manifest(1).strategy == strategy


def test_what_a_rule_adds_to_the_base_goes_to_each_node_that_lacks_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2):
        bench.add(seed)
    bench.run(strategy="fedex")
    rank, whole = bench.spec.rank, bench.registry.base(1)
    assert {value.shape[0] for n, value in whole.items() if "lora_A" in n} == {rank}
    sizes = [len(bench.registry.base_since(version)) for version in (-1, 0, 1)]
    assert [person.base_bytes for person in bench.people] == [sizes[0]] * 2
    assert sizes[0] == sizes[1] > 0 == sizes[2]


def test_no_reply_stays_in_memory_while_the_next_is_fetched(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2, 3):
        bench.add(seed)
    grid = WatchfulGrid({person.flower_id: person.answer for person in bench.people})
    strategy = bench.strategy(quorum=3)
    gc.disable()  # nothing may have to wait for it
    try:
        strategy.run(grid)  # type: ignore[arg-type]
    finally:
        gc.enable()
    assert len(strategy.report.outcome["merged"]) == 3
    assert grid.most_alive == 0


def test_a_round_holds_the_result_and_not_the_current_adapter_too(tmp_path: Path) -> None:
    spec = make_spec(layers=16, rank=16, linears={"self_attn.q_proj": (2048, 2048)})
    bench = Bench(tmp_path, spec)
    for seed in (1, 2):
        bench.add(seed)
    work = bench.strategy().work
    for person in bench.people:
        assert work.take(person.package, Arrival(person.node)) is None
    peaks: list[int] = []
    bench.gate.look = lambda: peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.start()
    try:
        outcome = work.finish(RoundPolicy(quorum=2), bench.gate)
    finally:
        tracemalloc.stop()
    assert len(outcome.merged) == 2
    assert spec.tensor_bytes <= peaks[0] < 1.6 * spec.tensor_bytes
