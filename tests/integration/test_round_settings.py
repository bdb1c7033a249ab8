"""Server optimisers and noise in real rounds: what the operator sets is what is published."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.packaging import make_package
from federation import accountant
from federation.adapter.format import Arrays, initial_arrays
from federation.adapter.parts import at_rank, leading, only
from federation.adapter.signing import SigningKey, pseudonym
from federation.errors import ConfigError, FormatError
from server.config import ServerConfig, ServerHome
from server.nodes import Nodes
from server.registry import Registry
from server.round_memory import RoundMemory
from server.round_policy import policy_of, tell_nodes
from strategies.catalogue import find
from strategies.central_noise import Privacy
from strategies.optimiser import StepPolicy
from strategies.weigh import WeighPolicy
from tests.adapter_samples import FACTS, make_spec, random_arrays
from tests.round_bench import Bench, equal

pytestmark = pytest.mark.strategies


def policy(tmp_path: Path, **values: Any) -> Any:
    return policy_of(ServerHome(tmp_path / "home"), ServerConfig(**values), "collect")


def test_each_setting_of_the_server_reaches_the_round(tmp_path: Path) -> None:
    plain = policy(tmp_path)
    assert (plain.optimiser, plain.privacy, plain.step.lr) == ("none", None, 1.0)
    stepped = policy(tmp_path, server_optimiser="nesterov", server_lr=0.7, server_momentum=0.8)
    assert (stepped.optimiser, stepped.step) == ("nesterov", StepPolicy(lr=0.7, beta=0.8))
    assert policy(tmp_path, server_optimiser="adam").step.lr == 1e-3
    blurred = policy(
        tmp_path,
        weigher="uniform",
        privacy={"noise_multiplier": 1.5, "clip_norm": 0.25, "delta": 1e-6},
    )
    assert blurred.privacy == Privacy(0.25, 1.5, 1e-6)


def test_a_trusted_node_is_named_and_must_have_joined(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none is named"):
        policy(tmp_path, weigher="fltrust")
    named = {"weigher": "fltrust", "trusted_node": "mine"}
    with pytest.raises(ConfigError, match="no node called 'mine'"):
        policy(tmp_path, **named)
    nodes = Nodes(ServerHome(tmp_path / "home").nodes_db)
    nodes.invite("mine", token_sha256="ab" * 32, expires_at=time.time() + 60)
    with pytest.raises(ConfigError, match="it is invited"):
        policy(tmp_path, **named)
    nodes.claim("ab" * 32, supernode_key="key", signing_key="cd" * 32)
    nodes.activate("mine", pseudonym="0123456789abcdef", flower_node_id="7")
    assert policy(tmp_path, **named).weigh == WeighPolicy(
        by="fltrust", half_life=1.0, trusted="0123456789abcdef"
    )
    nodes.ban("mine")
    with pytest.raises(ConfigError, match="it is banned"):
        policy(tmp_path, **named)
    assert policy(tmp_path, trusted_node="mine").weigh.trusted == ""


def test_a_round_that_trusts_a_node_waits_for_it_and_counts_those_who_agree(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    agrees, stranger = bench.add(1), bench.add(9)
    mine = SigningKey.generate()
    weigh = WeighPolicy(by="uniform+fltrust", trusted=pseudonym(mine.public_hex))
    waiting = bench.run(weigh=weigh).report.outcome
    assert (waiting["version"], waiting["waiting"]) == (None, 2)
    trusted = bench.add(1, key=mine)
    merged = bench.run(weigh=weigh).report.outcome["merged"]
    weights = {each["node"]: each["weight"] for each in merged}
    assert weights[trusted.node] == 0
    assert weights[agrees.node] > 3 * weights[stranger.node]


def test_momentum_goes_on_in_the_next_process_and_begins_anew_after_a_way_back(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    terms: dict[str, Any] = {"optimiser": "momentum", "step": StepPolicy(lr=0.5, beta=0.9)}
    zero = bench.current()
    first, one = night(bench, 1, terms), bench.current()
    second, two = night(bench, 2, terms), bench.current()
    for name in zero:
        np.testing.assert_allclose(one[name] - zero[name], 0.5 * first[name], atol=1e-6)
        speed = 0.9 * first[name] + second[name]
        np.testing.assert_allclose(two[name] - one[name], 0.5 * speed, atol=1e-6)
    bench.registry.republish(0, strategy="rollback")
    third = night(bench, 3, terms)
    for name, after in bench.current().items():
        np.testing.assert_allclose(after - zero[name], 0.5 * third[name], atol=1e-6)


def night(bench: Bench, seed: int, terms: dict[str, Any]) -> Arrays:
    """One more node sends its change, alone; returns the change."""
    bench.add(seed)
    start = bench.current()
    twin = Bench(bench.folder.parent / f"twin-{seed}", twin=bench)
    twin.people, twin.nodes = bench.people, bench.nodes
    twin.run()
    plain = twin.current()
    assert bench.run(**terms).report.outcome["version"] is not None
    return {name: plain[name] - start[name] for name in plain}


def test_moments_are_kept_for_few_versions(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    memory = RoundMemory(tmp_path / "memory", bench.registry)
    arrays = bench.current()
    moments = {name: {"m": np.full_like(value, 2)} for name, value in arrays.items()}
    assert memory.moments(0, "adam") == {}
    memory.keep_moments(arrays, "adam", moments)
    found = memory.moments(0, "adam")
    assert equal(
        {n: each["m"] for n, each in found.items()}, {n: m["m"] for n, m in moments.items()}
    )
    assert memory.moments(0, "yogi") == {}
    for shift in range(1, 7):
        memory.keep_moments({n: v + shift for n, v in arrays.items()}, "adam", moments)
    assert len(list((tmp_path / "memory").glob("*.safetensors"))) == 4


@pytest.mark.parametrize("strategy", ["fedit", "ffa", "fedsvd"])
def test_noise_has_the_size_that_was_set_and_only_in_what_is_merged(
    tmp_path: Path, strategy: str
) -> None:
    spec = make_spec(layers=2, rank=8, linears={"self_attn.q_proj": (256, 256)})
    rule = find(strategy)
    bench = Bench(tmp_path, spec)
    sends = rule.traits.asks(1).sends
    tell_nodes(bench.registry, rule)
    version = bench.registry.current
    for seed in (1, 2):
        bench.add(seed, factors=sends, **origin(bench.registry, version))
    clip, noise = 1e-9, 1e6  # clients vanish, the noise has a standard deviation of 1e-3
    privacy = Privacy(clip_norm=clip, noise_multiplier=noise)
    report = bench.run(strategy=strategy, privacy=privacy).report
    assert report.outcome["version"] == version + 1, report.outcome["reason"]
    zero, one = initial_arrays(spec, 0), bench.current()
    spread = noise * clip / 2
    for module in spec.modules():
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        change = one[b] @ one[a] - zero[b] @ zero[a]
        if strategy != "fedit":  # B began at zero: all that is there is noise times A
            noisy = change @ np.linalg.pinv(zero[a])
            assert noisy.std() == pytest.approx(spread, rel=0.1)
        else:
            assert (one[a] - zero[a]).std() == pytest.approx(spread, rel=0.1)
            assert one[b].std() == pytest.approx(spread, rel=0.1)
    if strategy == "ffa":
        assert equal(only(one, "A"), only(zero, "A"))
    assert {record["weight"] for record in report.outcome["merged"]} == {0.5}


def origin(registry: Registry, version: int) -> dict[str, Any]:
    return {
        "global_version": version,
        "global_sha256": registry.manifest_hashes()[version],
    }


def test_without_much_noise_a_blurred_round_is_the_mean_of_clipped_changes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for seed in (1, 2):
        bench.add(seed)
    zero, clip = bench.current(), 0.25
    bench.run(privacy=Privacy(clip_norm=clip, noise_multiplier=1e-6))
    one = bench.current()
    length = np.sqrt(sum(float(((one[n] - zero[n]) ** 2).sum()) for n in one))
    assert 0.6 * clip < length < 0.8 * clip  # two of length 0.25, about orthogonal


def test_every_round_spends_and_the_manifest_says_how_much(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    privacy = Privacy(clip_norm=0.1, noise_multiplier=2.0)
    bench.add(1)
    bench.gate.accepts = False
    bench.run(privacy=privacy)
    bench.gate.accepts = True
    bench.add(2)
    bench.run(privacy=privacy)
    told = bench.registry.manifest(1).gate["privacy"]
    assert told["rounds"] == 2  # also the one whose candidate was refused
    assert told["epsilon"] == accountant.epsilon(accountant.total([2.0, 2.0]), 1e-5)
    assert (told["noise_multiplier"], told["clip_norm"], told["delta"]) == (2.0, 0.1, 1e-5)
    memory = RoundMemory(tmp_path / "memory", bench.registry)
    assert memory.spent(1e-5) == {key: told[key] for key in ("rounds", "epsilon", "delta")}
    assert RoundMemory(tmp_path / "none", bench.registry).spent(1e-5) == {}
    with (tmp_path / "memory" / "privacy.jsonl").open("a") as ledger:
        ledger.write("{}\n")
    with pytest.raises(FormatError, match="line 3 is damaged"):
        memory.spent(1e-5)


@pytest.mark.security
@pytest.mark.parametrize("privacy", [None, Privacy(1e3, 1e-9)])
def test_with_noise_no_update_is_judged_by_the_size_of_others(
    tmp_path: Path, privacy: Privacy | None
) -> None:
    bench = Bench(tmp_path)
    for seed in range(1, 8):
        bench.add(seed)
    start, loud = bench.current(), bench.people[0]
    trained = {n: v + 30 * random_arrays(bench.spec, 1)[n] for n, v in start.items()}
    facts = replace(FACTS, global_sha256=bench.origin)
    loud.package = make_package(trained, start, bench.spec, facts, loud.key)[0]
    report = bench.run(privacy=privacy).report
    merged = {record["node"]: record["weight"] for record in report.outcome["merged"]}
    assert (loud.node in merged) is (privacy is not None)
    if privacy is not None:
        assert set(merged.values()) == {1 / 7}


def test_a_lower_rank_that_an_earlier_rule_allowed_is_refused_by_one_for_whole_adapters(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path)
    tell_nodes(bench.registry, find("flexlora"))
    small, whole = bench.add(1), bench.add(2, **origin(bench.registry, 1))
    facts = replace(FACTS, **origin(bench.registry, 1))
    cut = at_rank(bench.spec, 2)
    start = leading(bench.current(), cut)
    trained = {name: value + np.float32(0.01) for name, value in start.items()}
    small.package = make_package(trained, start, cut, facts, small.key)[0]
    tell_nodes(bench.registry, find("fedit"))
    outcome = bench.run(strategy="fedit").report.outcome
    assert [(r["node"], r["code"]) for r in outcome["refused"]] == [(small.node, "stale")]
    assert [record["node"] for record in outcome["merged"]] == [whole.node]


def test_a_change_of_rule_is_told_to_nodes_by_one_more_version(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tell_nodes(bench.registry, find("fedit"))
    assert bench.registry.current == 0
    tell_nodes(bench.registry, find("rolora"))
    assert bench.registry.current == 1
    assert bench.registry.manifest(1).instructions.trains == "A"  # round 2 is even
    assert equal(bench.registry.arrays(1), bench.registry.arrays(0))
    tell_nodes(bench.registry, find("rolora"))
    assert bench.registry.current == 1
    bench.add(1)  # made for the version before, with both factors
    outcome = bench.run(strategy="rolora").report.outcome
    assert outcome["version"] is None
    assert [refused["code"] for refused in outcome["refused"]] == ["stale"]
