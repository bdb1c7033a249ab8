"""Enrolment through the gateway: one node a token, whatever goes wrong on the way."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from federation import invitation
from server.config import ServerHome
from server.control import KEY_IN_USE
from server.limits import RateLimit
from tests.gateway_bench import Bench, Upstream, fresh, serving
from tests.server_home import node_keys


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerHome, Upstream]]:
    with serving(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def bench(shared: tuple[ServerHome, Upstream]) -> Bench:
    return fresh(*shared)


def test_enrolment_welcomes_a_node_and_says_so_twice(bench: Bench) -> None:
    made, keys = bench.invite("ben"), node_keys()
    first, again = bench.send(bench.enrolment(made, keys), bench.enrolment(made, keys))
    reply = invitation.EnrolReply.model_validate_json(first.content)
    assert (reply.name, reply.flower_node_id) == ("ben", str(2**63 + 1))
    assert again.json() == first.json()
    assert bench.superlink.registered == [keys.header]
    assert bench.send(bench.enrolment(made, node_keys()))[0].json()["code"] == "used"


def test_a_node_can_work_as_soon_as_it_has_enrolled(bench: Bench) -> None:
    made, keys = bench.invite("ben"), node_keys()
    work = bench.fleet()
    work.headers["flwr-public-key"] = keys.header
    statuses = [
        answer.status_code for answer in bench.send(work, bench.enrolment(made, keys), work)
    ]
    assert statuses == [401, 200, 200]


def test_a_request_signed_by_another_key_is_refused(bench: Bench) -> None:
    made, keys = bench.invite("ben"), node_keys()
    request = invitation.enrol_request(made.token, keys.line, keys.signing)
    stolen = request.model_copy(update={"signing_key": node_keys().signing.public_hex})
    content = stolen.model_dump_json()
    (answer,) = bench.send(httpx.Request("POST", "https://gateway/enrol", content=content))
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert bench.nodes.by_name("ben").status == "invited"


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 5000, b"\xff", b"x" * 20_000, b'{"token": 1}'])
def test_nonsense_is_refused_and_not_repeated(bench: Bench, body: bytes) -> None:
    (answer,) = bench.send(httpx.Request("POST", "https://gateway/enrol", content=body))
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert len(answer.content) < 200


def test_an_unreachable_flower_gives_the_invitation_back(bench: Bench) -> None:
    made, keys = bench.invite("ben"), node_keys()
    bench.superlink.failure = "the SuperLink did not answer"
    (answer,) = bench.send(bench.enrolment(made, keys))
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    bench.superlink.failure = ""
    assert bench.send(bench.enrolment(made, node_keys()))[0].status_code == 200


def test_a_key_that_flower_knows_is_named(bench: Bench) -> None:
    bench.superlink.failure = f"Public key {KEY_IN_USE}"
    (answer,) = bench.send(bench.enrolment(bench.invite("ben"), node_keys()))
    assert (answer.status_code, answer.json()["code"]) == (409, "key-in-use")


def test_two_nodes_asking_at_once_with_one_token_make_one_node(bench: Bench) -> None:
    made = bench.invite("ben")

    answers = bench.send(*(bench.enrolment(made, node_keys()) for _ in range(4)), at_once=True)
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]
    assert len(bench.superlink.registered) == 1


@pytest.mark.security
def test_h21_guessing_is_slowed_down(bench: Bench) -> None:
    guess = bench.invite("ben").model_copy(update={"token": "0" * 64})
    keys = node_keys()
    answers = bench.send(*(bench.enrolment(guess, keys) for _ in range(9)))
    assert [answer.json()["code"] for answer in answers] == ["unknown"] * 8 + ["busy"]


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    limit = RateLimit(per_minute=6, burst=2, clock=lambda: now[0])
    assert [limit.allows() for _ in range(3)] == [True, True, False]
    now[0] = 9.0
    assert not limit.allows()
    now[0] = 10.1
    assert limit.allows()
