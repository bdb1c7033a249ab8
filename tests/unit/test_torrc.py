"""The torrc of a client and of a service; bridge lines, right and wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.tor.settings import TorSettings
from federation.tor.torrc import Service, check_bridge, client_torrc, quoted, service_torrc

FINGERPRINT = "0123456789ABCDEF0123456789abcdef01234567"
VANILLA = f"192.0.2.3:443 {FINGERPRINT}"
OBFS4 = f"obfs4 192.0.2.4:9001 {FINGERPRINT} cert={'Ab+/' * 17}Xy iat-mode=0"
SNOWFLAKE = (
    f"snowflake 192.0.2.5:80 {FINGERPRINT} fingerprint={FINGERPRINT} "
    "url=https://broker.invalid/ ice=stun:stun.invalid:3478,stun:other.invalid:3478 utls-imitate=x"
)
PROGRAMS = {"obfs4": "/usr/bin/obfs4proxy", "snowflake": "/opt/snow flake/client#1"}
AWKWARD = "a \"b' #c\\d é"


def verified(torrc: str, folder: Path) -> str:
    """What tor itself says about a torrc; the test is skipped without a tor."""
    tor = shutil.which("tor")
    if tor is None:
        pytest.skip("needs the tor program")
    for name in ("data", "auth"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "torrc").write_text(torrc, encoding="utf-8")
    command = [tor, "--defaults-torrc", "/dev/null", "-f", str(folder / "torrc")]
    done = subprocess.run([*command, "--verify-config"], capture_output=True, check=False)
    return done.stdout.decode()


@pytest.mark.parametrize("line", [VANILLA, "192.0.2.3:443", "[2001:db8::1]:443", OBFS4, SNOWFLAKE])
@pytest.mark.parametrize("before", ["", "Bridge ", "bridge  "])
def test_a_good_bridge_line_passes_with_or_without_the_word_bridge(before: str, line: str) -> None:
    assert check_bridge(f" {before}{line}\n", PROGRAMS) == line


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "empty"),
        ("Bridge", "empty"),
        ("obfs4", "''"),
        ("192.0.2.3", "'192.0.2.3'"),
        ("192.0.2.300:443", "192.0.2.300"),
        ("192.0.2.3:0", "192.0.2.3:0"),
        ("[2001:db8::1:443", "2001"),
        ("bridge.invalid:443", "bridge.invalid"),
        (VANILLA[:-1], "40 hexadecimal"),
        (f"{VANILLA} more", "'more'"),
        (f"{VANILLA} cert=x", "'cert=x'"),
        (f"{VANILLA}\nSocksPort 1", "line break"),
        (VANILLA.replace(" ", "\u00a0"), "line break or a character"),
        (OBFS4.replace(" iat-mode=0", ""), "iat-mode="),
        (OBFS4.replace("cert=A", "cert="), "cert="),
        (OBFS4.replace("obfs4", "obsf4"), "did you mean 'obfs4'"),
        (OBFS4.replace("obfs4", "webtunnel"), "needs the transport 'webtunnel'"),
    ],
)
def test_a_wrong_bridge_line_is_refused_and_named(line: str, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_bridge(line, PROGRAMS)
    assert named in refused.value.message
    assert line in refused.value.message


def test_a_transport_without_a_whole_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole path"):
        check_bridge(OBFS4, {"obfs4": "obfs4proxy"})


def test_one_wrong_bridge_line_among_good_ones_stops_everything(tmp_path: Path) -> None:
    settings = TorSettings(bridges=(VANILLA, "192.0.2.3"))
    with pytest.raises(ConfigError, match=r"192\.0\.2\.3"):
        client_torrc(tmp_path, settings)
    with pytest.raises(ConfigError):
        service_torrc(tmp_path, settings, [])


def test_with_bridges_tor_uses_nothing_else(tmp_path: Path) -> None:
    settings = TorSettings(bridges=(VANILLA, f"Bridge {OBFS4}", SNOWFLAKE), transports=PROGRAMS)
    lines = client_torrc(tmp_path, settings).splitlines()
    assert "UseBridges 1" in lines
    assert [line for line in lines if line.startswith("Bridge ")] == [
        f'Bridge "{line}"' for line in (VANILLA, OBFS4, SNOWFLAKE)
    ]
    assert "ClientTransportPlugin obfs4 exec /usr/bin/obfs4proxy" in lines
    assert "ClientTransportPlugin snowflake exec transports/snowflake" in lines


def test_without_bridges_no_transport_is_started(tmp_path: Path) -> None:
    text = client_torrc(tmp_path, TorSettings(transports=PROGRAMS))
    assert "Bridge" not in text
    assert "Transport" not in text


def test_the_owners_own_lines_come_last(tmp_path: Path) -> None:
    mine = tmp_path / "mine.torrc"
    text = client_torrc(tmp_path, TorSettings(torrc=str(mine), bridges=(VANILLA,)))
    assert text.splitlines()[-1] == f"%include {quoted(mine)}"
    with pytest.raises(ConfigError, match="mine"):
        client_torrc(tmp_path, TorSettings(torrc="mine.torrc"))


def test_the_products_torrc_has_no_testing_option_and_hides_addresses_in_its_log(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path / "service", "127.0.0.1:9443")
    both = [client_torrc(tmp_path, TorSettings())]
    both.append(service_torrc(tmp_path, TorSettings(), [service]))
    for text in both:
        assert "Testing" not in text
        assert "SafeLogging 1" in text.splitlines()
        assert "ClientOnly 1" in text.splitlines()


def test_every_service_has_the_defences_and_its_own_target(tmp_path: Path) -> None:
    services = [Service(tmp_path / "a", "127.0.0.1:1"), Service(tmp_path / "b", "127.0.0.1:2", 80)]
    text = service_torrc(tmp_path, TorSettings(), services)
    assert text.count("HiddenServiceEnableIntroDoSDefense 1\n") == 2
    assert text.count("HiddenServicePoWDefensesEnabled 1\n") == 2
    assert "HiddenServicePort 443 127.0.0.1:1\n" in text
    assert "HiddenServicePort 80 127.0.0.1:2\n" in text
    assert "PoW" not in service_torrc(tmp_path, TorSettings(), services, has_pow=False)


def test_tor_takes_the_clients_torrc_in_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    mine = folder / "mine.torrc"
    mine.write_text("NumCPUs 1\n", encoding="utf-8")
    bridges = (VANILLA, "[2001:db8::1]:443", OBFS4, SNOWFLAKE)
    settings = TorSettings(bridges=bridges, transports=PROGRAMS, torrc=str(mine))
    said = verified(client_torrc(folder, settings), folder)
    assert "Configuration was valid" in said
    assert f'Including configuration file "{mine}"' in said


def test_tor_takes_the_services_torrc_in_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    services = [Service(folder / "one", "127.0.0.1:9443"), Service(folder / "two", "127.0.0.1:9")]
    assert "Configuration was valid" in verified(
        service_torrc(folder, TorSettings(), services), folder
    )
