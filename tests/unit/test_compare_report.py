"""`flower-server compare` in the lab: its report, its files, going on, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from federation.accountant import epsilon, total
from federation.errors import ConfigError, ConscienceError, UsageError
from federation.ledger import tracker
from federation.ledger.comparison import Curve, curves_picture
from server.cli import app
from server.compare import grid
from server.compare.comparison import Place, Telling, compare, track
from server.compare.study import Progress, Study
from strategies.compare.federate import federate
from strategies.compare.figures import tabulate
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting
from strategies.compare.trends import Claim, judge

pytestmark = pytest.mark.strategies
SMALL = Setting(rounds=1, steps=3)
FEW = ["--strategies", "fedit,flora,ffa", "--set", "rounds=1", "--set", "steps=3"]


def run(folder: Path, *options: str) -> str:
    arguments = ["compare", "--out", str(folder), "--no-mlflow", *options]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def records(*settings: Setting) -> list[dict[str, Any]]:
    return [federate(Lab(each), each).to_json() for each in settings]


def cell_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}


def without_seconds(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content | {"seconds": None}


def test_a_comparison_leaves_a_table_and_a_page_that_loads_nothing(tmp_path: Path) -> None:
    attacks = ["--attacks", "none,sign:0.25:3"]
    told = json.loads(run(tmp_path, *FEW, "--seeds", "2", "--json", *attacks))
    assert {row["arm"] for row in told["rows"]} == {"fedit", "flora", "ffa"}
    assert told["unfair"] == []
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 5  # two a panel, and one of attacks
    assert not re.search(r"https?://|<script|src='(?!data:)", page)
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    for word in ("shift:1", "Holm", "| flora |", "## Attacks", "sign:0.25:3", "different bytes"):
        assert word in text
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == told["rows"]


def study(folder: Path, seeds: int, *, resume: bool) -> list[bool]:
    """Run three cells a seed; whether each was run, in their order."""
    ran: list[bool] = []
    names = ("fedit", "flora", "ffa")
    cells = [replace(SMALL, strategy=name, seed=s) for s in range(seeds) for name in names]
    progress = Progress(cell=lambda _done, _all, now: ran.append(now))
    made = Study(folder, lambda each: nullcontext(Lab(each)), {"task": "lab"})
    assert len(made.run(cells, resume=resume, progress=progress)) == 3 * seeds
    return ran


def test_a_study_goes_on_with_what_is_there_and_runs_again_what_is_damaged(tmp_path: Path) -> None:
    assert study(tmp_path, 1, resume=False) == [True] * 3
    before = cell_times(tmp_path)
    damaged = tmp_path / "cells" / min(before)
    whole = without_seconds(damaged)
    damaged.write_text("{", encoding="utf-8")
    assert sorted(study(tmp_path, 2, resume=True)) == [False] * 2 + [True] * 4
    after = cell_times(tmp_path)
    kept = [name for name in before if name != damaged.name]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert without_seconds(damaged) == whole


def test_two_comparisons_with_the_same_seeds_are_the_same(tmp_path: Path) -> None:
    for name in ("one", "other"):
        study(tmp_path / name, 2, resume=False)
    cells = sorted(cell_times(tmp_path / "one"))
    assert cells == sorted(cell_times(tmp_path / "other"))
    for cell in cells:
        one, other = (
            without_seconds(tmp_path / name / "cells" / cell) for name in ("one", "other")
        )
        assert one == other


def test_results_are_not_mixed_unless_asked_for(tmp_path: Path) -> None:
    place = Place(tmp_path, mlflow=False)
    compare(place, [SMALL])
    with pytest.raises(UsageError, match="not empty"):
        compare(place, [SMALL])


def test_another_baseline_is_the_one_of_the_differences(tmp_path: Path) -> None:
    found = compare(
        Place(tmp_path, mlflow=False),
        [SMALL, replace(SMALL, strategy="ffa")],
        Telling(baseline="ffa", left_out={"flora": "because"}),
    )
    with_difference = [row.arm for row in found.table.rows if row.difference is not None]
    assert with_difference == ["fedit"]
    assert "flora: because" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_panel_without_the_baseline_is_compared_with_its_first_arm(tmp_path: Path) -> None:
    place = Place(tmp_path, mlflow=False)
    padded = replace(SMALL, strategy="zeropad", ranks=(2,) * 4 + (4,) * 4)
    found = compare(place, [SMALL, padded, replace(padded, strategy="rbla")])
    assert list(found.table.baselines.values()) == ["fedit", "zeropad"]
    assert [row.arm for row in found.table.rows if row.difference is not None] == ["rbla"]
    assert "| against zeropad |" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_an_arm_looks_the_same_in_every_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, int]] = []

    def watched(curves: Mapping[str, Curve]) -> bytes:
        drawn.append({arm: curve.look for arm, curve in curves.items()})
        return curves_picture(curves)

    monkeypatch.setattr("server.compare.report.curves_picture", watched)
    moved = replace(SMALL, partition="shift:2")
    cells = [replace(SMALL, strategy=name) for name in ("fedit", "ffa", "flora")]
    cells += [replace(moved, strategy=name) for name in ("flora", "fedex", "fedit")]
    compare(Place(tmp_path, mlflow=False), cells)
    assert drawn == [{"fedit": 0, "ffa": 1, "flora": 2}, {"flora": 2, "fedex": 3, "fedit": 0}]


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    compare(Place(tmp_path, mlflow=False), [SMALL, replace(SMALL, strategy="ffa")])
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    head = next(line for line in text.splitlines() if line.startswith("| arm"))
    assert "| epsilon |" not in head
    assert head.endswith("| server s/round | honest refused | seeds |")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<th>") == head.count("|") - 1
    (row,) = [line for line in text.splitlines() if line.startswith("| ffa")]
    assert row.count("|") == head.count("|")


def test_noise_of_an_arm_stands_in_the_table(tmp_path: Path) -> None:
    noisy = replace(SMALL, strategy="ffa", noise="central:1:0.5")
    compare(Place(tmp_path, mlflow=False), [replace(SMALL, strategy="ffa"), noisy])
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    place = next(line for line in lines if "epsilon" in line).split("|").index(" epsilon ")
    rows = [line.split("|") for line in lines if line.startswith("| ffa")]
    shown = {cells[1].strip(): cells[place].strip() for cells in rows}
    assert shown["ffa+central:1:0.5"] == f"{epsilon(total([1.0]), 1e-5):.3g}"
    assert shown["ffa"] == ""


def test_arms_that_began_differently_are_called_unfair() -> None:
    found = records(SMALL, replace(SMALL, strategy="ffa"))
    assert tabulate(found).unfair == []
    found[1]["facts"]["initial"] = "other"
    assert tabulate(found).unfair == [
        "shift:1, 1 × 3 steps, seed 0: ffa has another initial than fedit"
    ]


def claim(better: str, worse: str) -> Claim:
    both = (replace(SMALL, strategy=name) for name in (better, worse))
    return Claim(f"{better} < {worse}", "test", *both)


def test_an_ordering_is_seen_not_seen_reversed_or_not_measured() -> None:
    kinds = [replace(SMALL, strategy=name, steps=40) for name in ("fedit", "flora", "zeropad")]
    found = records(*(replace(each, seed=seed) for each in kinds for seed in range(6)))
    sides = {each.strategy: each for each in kinds}
    wanted = [("flora", "fedit"), ("fedit", "flora"), ("zeropad", "fedit")]
    claims = [Claim(f"{a} < {b}", "test", sides[a], sides[b]) for a, b in wanted]
    claims.append(claim("ffa", "fedit"))
    words = [verdict.word for verdict in judge(claims, found)]
    assert words == ["seen", "not seen, reversed", "not seen", "not measured"]


def test_the_presets_hold_only_cells_that_make_sense() -> None:
    quick = grid.choose(grid.Wish(), quick=True, preset="")
    trends = grid.choose(grid.Wish(), quick=False, preset="paper-trends")
    wish = grid.Wish(model="semilla", seeds=2, fixed=grid.parse_fixed(["clients=3"]))
    on_a_model = grid.choose(wish, quick=False, preset="paper-trends")
    for chosen in (quick, trends, on_a_model):
        kept, left = grid.sensible(chosen.cells)
        assert kept == chosen.cells
        assert left == {}
    assert len(quick.cells) <= 80  # a few seconds
    assert {cell.seed for cell in on_a_model.cells} == {0, 1}
    assert {(cell.task, cell.clients) for cell in on_a_model.cells} == {("semilla", 3)}
    rates = {cell.strategy: cell.lr for cell in on_a_model.cells if cell.steps == 16}
    assert rates["ffa"] > rates["fedit"]


def test_orderings_on_a_model_are_found_by_its_hash_too() -> None:
    wish = grid.Wish(model="semilla", seeds=1)
    chosen = grid.choose(wish, quick=False, preset="paper-trends")
    lossy = {"flora": 1.0, "fedex": 1.5, "flexlora": 1.8, "fedit": 2.0}
    found = []
    for cell in chosen.cells:
        rounds = [{"loss": lossy.get(cell.strategy, 3.0)}] * 2
        setting = cell.to_json() | {"task": "ab12"}
        found.append({"setting": setting, "rounds": rounds})
    verdicts = judge(chosen.claims, found)
    assert {verdict.word for verdict in verdicts} == {"not seen"}  # one seed shows nothing
    gaps = {verdict.claim.says: verdict.difference for verdict in verdicts}
    assert gaps["fedex < fedit"] is not None
    assert gaps["fedex < fedit"].mean == -0.5


def test_a_grid_crosses_what_it_is_given_and_says_what_it_left_out() -> None:
    wish = grid.Wish(
        strategies=("fedit", "flora"),
        optimisers=("none", "momentum"),
        seeds=3,
        rates=grid.parse_rates(["0.02", "flora=0.5"]),
        fixed=grid.parse_fixed(["rounds=2"]),
    )
    cells, left = grid.cells(wish)
    assert len(cells) == 9
    assert {(c.strategy, c.lr) for c in cells} == {("fedit", 0.02), ("flora", 0.5)}
    assert {c.rounds for c in cells} == {2}
    assert len(left) == 1
    assert "steps in factors" in next(iter(left.values()))


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda: grid.parse_rates(["fedti=1"]), "fedti"),
        (lambda: grid.parse_rates(["fast"]), "above 0"),
        (lambda: grid.parse_fixed(["round=2"]), "round"),
        (lambda: grid.parse_fixed(["rounds=0"]), "no such value"),
        (lambda: grid.parse_proximal(["0", "much"]), "much"),
        (lambda: grid.parse_rates(["flower-mean=1"]), "flower-mean"),
        (lambda: grid.cells(grid.Wish(partitions=("iid",))), "partition of the lab"),
        (lambda: grid.cells(grid.Wish(strategies=("flora",), optimisers=("adam",))), "no cell"),
        (lambda: grid.choose(grid.Wish(), quick=False, preset="papers"), "papers"),
        (lambda: grid.choose(grid.Wish(model="semilla"), quick=True, preset=""), "lab alone"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(ask: Callable[[], Any], named: str) -> None:
    with pytest.raises(ConscienceError, match=named):
        ask()


def test_an_unknown_setting_is_named_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError) as caught:
        grid.parse_fixed(["cliennts=2"])
    assert "clients" in caught.value.hint


def test_without_mlflow_a_comparison_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "is_installed", lambda: False)
    assert track(Place(tmp_path), compare(Place(tmp_path), [SMALL])) == 0
    assert (tmp_path / "table.md").exists()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.skipif(not tracker.is_installed(), reason="needs mlflow: the extra of that name")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # mlflow's models
def test_every_cell_is_logged_once_and_mlflow_reads_it_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cells = [SMALL, replace(SMALL, strategy="ffa", rounds=2)]
    for chosen, resume, logged in ((cells[:1], False, 1), (cells, True, 1), (cells, True, 0)):
        found = compare(Place(tmp_path), chosen, resume=resume)
        assert track(Place(tmp_path, mlflow=False), found) == 0
        assert track(Place(tmp_path), found) == logged
    assert capfd.readouterr() == ("", "")
    records = [json.loads(path.read_bytes()) for path in (tmp_path / "cells").iterdir()]
    kept = {record["setting"]["strategy"]: record for record in records}
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(tracker.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    assert {each.data.params["strategy"] for each in found} == {"fedit", "ffa"}
    for each in found:
        assert each.info.status == "FINISHED"
        cell = kept[each.data.params["strategy"]]
        losses = client.get_metric_history(each.info.run_id, "loss")
        assert [point.value for point in losses] == [told["loss"] for told in cell["rounds"]]
        assert [point.step for point in losses] == list(range(len(cell["rounds"])))


def test_noise_and_fedprox_are_crossed_with_the_rest_and_nonsense_is_left_out() -> None:
    noises = ("none", "central:1:0.5", "local:1:0.5")
    wish = grid.Wish(strategies=("ffa", "flexlora"), seeds=1, noises=noises, proximal=(0.0, 0.1))
    kept, left = grid.cells(wish)
    assert [cell.arm for cell in kept if cell.strategy == "flexlora"] == [
        "flexlora",
        "flexlora+local:1:0.5",
        "flexlora+prox0.1",
        "flexlora+prox0.1+local:1:0.5",
    ]
    assert len([cell for cell in kept if cell.strategy == "ffa"]) == 6
    assert len(left) == 2
    assert all("no plain mean" in why for why in left.values())
