"""`flower-server up` with its onion service, driven by the commands that an operator types."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from tor_network import PrivateTor
from town import Town

from federation.invitation import read
from server.config import ServerHome
from tests.onion_bench import NO_KEY, WRONG_KEY, Volunteer, await_that

pytestmark = pytest.mark.tor


def hosts(town: Town) -> list[str]:
    found = json.loads(town.operator("onion", "status", "--show-address", "--json"))
    return [row["address"].removesuffix(":443") for row in found["addresses"]]


def written(folder: Path) -> str:
    """Everything a server wrote for people to read."""
    texts = [folder / "output.log", folder / "running.json", folder / "onion" / "state.json"]
    texts += (folder / "logs").rglob("*")
    return "".join(path.read_text(errors="replace") for path in texts if path.is_file())


def test_a_server_is_reached_through_its_onion_and_survives_its_disk(
    tmp_path: Path, tor_network: PrivateTor, record_property: pytest.RecordProperty
) -> None:
    town = Town(tmp_path / "town", tor={"torrc": str(tor_network.torrc_file), "start_s": 90})
    said: list[str] = []
    town.say = said.append
    other = Town(tmp_path / "other", tor={})
    try:
        started = time.monotonic()
        town.start_server("--base", "semilla")
        record_property("up_s", round(time.monotonic() - started, 1))
        assert said[-1].endswith("onion service reachable.")
        (host,) = hosts(town)
        status = json.loads(town.operator("status", "--json"))
        assert (status["up"], status["healthy"], status["onion"]) == (True, True, "reachable")

        ana, ben = (read(str(town.invite(name))) for name in ("ana", "ben"))
        assert ana.address == ben.address == f"{host}:443"
        visitor = Volunteer(tor_network.client("visitorc"), ServerHome(town.server))
        assert visitor.knock(host) == NO_KEY
        visitor.take(ana.address, ana.onion_key)
        assert visitor.reaches(host)

        started = time.monotonic()
        (visit,) = json.loads(town.operator("onion", "check", "--json"))
        assert visit["is_healthy"]
        record_property("check_s", round(time.monotonic() - started, 1))

        started = time.monotonic()
        town.operator("ban", "ana")
        record_property("ban_s", round(time.monotonic() - started, 1))
        assert visitor.knock(host) == WRONG_KEY
        visitor.forget()
        visitor.take(ben.address, ben.onion_key)
        await_that(lambda: visitor.reaches(host))

        backup = tmp_path / "backup.tar"
        town.operator("backup", str(backup))
        town.stop()
        # tor itself writes "[scrubbed].onion" where a visit fails
        assert not re.search(r"\w\.onion", written(town.server) + "".join(said))

        other.operator("restore", str(backup))
        other.start("server", ["flower-server", "up"])
        assert hosts(other) == [host]
        assert visitor.reaches(host)
        nodes = json.loads(other.operator("nodes", "--json"))
        assert {row["name"]: row["status"] for row in nodes} == {"ana": "banned", "ben": "invited"}
    finally:
        town.stop()
        other.stop()
