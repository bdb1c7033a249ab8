"""What is made of the figures of `flower-client tor bench`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.config import NodeConfig, NodeHome, load_config, load_federation
from client.tor_bench import (
    Bench,
    Transfer,
    content,
    expected_upload,
    measure,
    percentile,
    save,
    seconds_for,
    sentence,
    size_words,
)
from federation.adapter.format import AdapterSpec
from federation.errors import RevokedError
from federation.probe import SIZES, path_of
from tests.fake_gateway import FakeGateway, serve_gateway
from tests.fake_socks import FakeSocks
from tests.global_samples import put_package
from tests.onion_home import ONION, onion_home

SMALL, LARGE = SIZES
TRANSFERS = (Transfer(SMALL, (1.0, 2.0, 1.5), (1.0,)), Transfer(LARGE, (9.0,), (4.0,)))
BENCH = Bench(
    through_tor=True,
    connect_s=(2.0, 0.5, 0.5),
    first_byte_s=tuple(0.1 * number for number in range(1, 21)),
    transfers=TRANSFERS,
    upload_bytes=500_000,
    upload_s=4.4,
    at="2026-11-26T20:00:00+00:00",
)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return onion_home(tmp_path / "node", "")


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(SMALL, 1.5), (LARGE, 9.0), ((SMALL + LARGE) // 2, 5.25), (LARGE * 2 - SMALL, 16.5)],
)
def test_other_sizes_lie_on_the_line_through_the_probes(size: int, seconds: float) -> None:
    assert seconds_for(size, TRANSFERS) == pytest.approx(seconds)


def test_a_small_upload_takes_no_less_than_its_share_of_the_small_probe() -> None:
    steep = (Transfer(SMALL, (0.2,), (1.0,)), Transfer(LARGE, (20.0,), (1.0,)))
    assert seconds_for(SMALL // 2, steep) == pytest.approx(0.1)


def test_percentiles_are_within_what_was_measured() -> None:
    values = BENCH.first_byte_s
    assert percentile(values, 50) == pytest.approx(1.05)
    assert 1.9 < percentile(values, 95) < 2.0
    assert percentile((3.0,), 95) == 3.0


def test_rates_are_of_the_median_exchange() -> None:
    assert TRANSFERS[0].up_kib_s == pytest.approx(256 / 1.5)
    assert TRANSFERS[1].down_kib_s == pytest.approx(1024)
    assert [size_words(size) for size in SIZES] == ["256 KiB", "4 MiB"]


def test_the_figures_are_one_sentence_one_file_and_one_picture(home: NodeHome) -> None:
    assert sentence(BENCH) == "Your evening's upload of 0.5 MB takes about 4.4 s."
    folder = save(BENCH, home)
    assert folder == home.runs / "tor_bench" / "20261126T200000"
    assert json.loads((folder / "bench.json").read_text()) == json.loads(json.dumps(content(BENCH)))
    assert (folder / "bench.png").stat().st_size > 5000


def test_the_upload_is_the_newest_package_else_the_size_of_the_adapter(home: NodeHome) -> None:
    spec = AdapterSpec.from_json(load_federation(home).spec)
    for coding, size in (("bf16", 2), ("int8", 1)):
        config = NodeConfig.model_validate({"coding": coding})
        expected = size * spec.tensor_bytes // 4
        assert expected_upload(home, config, load_federation(home)) == expected
    put_package(home, spec)
    (package,) = home.outbox.glob("*.zip")
    made = expected_upload(home, NodeConfig(), load_federation(home))
    assert made == package.stat().st_size


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    with serve_gateway(tmp_path / "tls") as served:
        yield served


def test_a_node_that_is_not_admitted_measures_nothing(tmp_path: Path, gateway: FakeGateway) -> None:
    gateway.statuses[path_of(SMALL)] = 401
    with FakeSocks(target=int(gateway.address.rpartition(":")[2])) as socks:
        home = onion_home(
            tmp_path / "other", gateway.ca_certificate, mode="address", socks=socks.address
        )
        with pytest.raises(RevokedError):
            measure(home, load_config(home)[0], lambda _line: None, now=lambda: 0.0)
        assert [(asked.host, asked.user) for asked in socks.asked] == [(ONION, "bench")]
    assert gateway.asked == [path_of(SMALL)]
