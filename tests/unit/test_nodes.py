"""The node book: one token one node, bans hold, bytes add up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from federation.errors import UsageError
from server.nodes import EnrolmentError, Nodes, header_key
from tests.server_home import node_keys

TOKEN = "ab" * 32


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def nodes(tmp_path: Path, clock: Clock) -> Nodes:
    book = Nodes(tmp_path / "nodes.sqlite", clock=clock)
    book.invite("ana", token_sha256=TOKEN, expires_at=2000.0)
    return book


def enrol(nodes: Nodes, *, token: str = TOKEN, key: str = "k", signing: str = "s") -> None:
    claim = nodes.claim(token, supernode_key=key, signing_key=signing)
    nodes.activate(claim.name, pseudonym="0" * 16, flower_node_id="18446744073709551615")


def refusal(nodes: Nodes, **claim: str) -> str:
    with pytest.raises(EnrolmentError) as caught:
        nodes.claim(**({"supernode_key": "k2", "signing_key": "s2"} | claim))  # type: ignore[arg-type]
    return caught.value.code


@pytest.mark.security
def test_h05_a_token_makes_one_node(nodes: Nodes) -> None:
    enrol(nodes)
    node = nodes.by_name("ana")
    assert (node.status, node.flower_node_id) == ("active", "18446744073709551615")
    assert nodes.by_flower_id(2**64 - 1) == nodes.by_pseudonym("0" * 16) == node
    assert refusal(nodes, token_sha256=TOKEN) == "used"


def test_the_same_keys_may_ask_again(nodes: Nodes) -> None:
    assert not nodes.claim(TOKEN, supernode_key="k", signing_key="s").is_repeat
    assert not nodes.claim(TOKEN, supernode_key="k", signing_key="s").is_repeat
    nodes.activate("ana", pseudonym="0" * 16, flower_node_id="1")
    assert nodes.claim(TOKEN, supernode_key="k", signing_key="s").is_repeat


@pytest.mark.security
def test_h05_an_expired_token_is_refused(nodes: Nodes, clock: Clock) -> None:
    clock.now = 2000.0
    assert refusal(nodes, token_sha256=TOKEN) == "expired"


def test_an_enrolled_node_may_ask_again_after_its_invitation_ended(
    nodes: Nodes, clock: Clock
) -> None:
    enrol(nodes)
    clock.now = 5000.0
    assert nodes.claim(TOKEN, supernode_key="k", signing_key="s").is_repeat


def test_an_unknown_token_is_refused(nodes: Nodes) -> None:
    assert refusal(nodes, token_sha256="cd" * 32) == "unknown"
    assert refusal(nodes, token_sha256="") == "unknown"


def test_a_released_claim_can_be_made_again(nodes: Nodes) -> None:
    nodes.claim(TOKEN, supernode_key="k", signing_key="s")
    nodes.release("ana")
    assert nodes.by_name("ana").status == "invited"
    enrol(nodes, key="other", signing="other")


def test_a_key_belongs_to_one_node(nodes: Nodes) -> None:
    enrol(nodes)
    nodes.invite("ben", token_sha256="cd" * 32, expires_at=2000.0)
    assert refusal(nodes, token_sha256="cd" * 32, supernode_key="k") == "key-in-use"
    assert refusal(nodes, token_sha256="cd" * 32, signing_key="s") == "key-in-use"
    assert nodes.by_name("ben").status == "invited"


@pytest.mark.security
def test_h05_only_one_of_many_wins_a_token(nodes: Nodes, tmp_path: Path) -> None:
    wins: list[int] = []
    gate = threading.Barrier(8)

    def ask(number: int) -> None:
        book = Nodes(tmp_path / "nodes.sqlite", clock=lambda: 1000.0)
        gate.wait(20)
        try:
            book.claim(TOKEN, supernode_key=f"k{number}", signing_key=f"s{number}")
        except EnrolmentError:
            return
        wins.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wins) == 1
    held = nodes.by_name("ana")
    assert (held.supernode_key, held.signing_key) == (f"k{wins[0]}", f"s{wins[0]}")


def test_inviting_again_voids_the_old_token(nodes: Nodes) -> None:
    nodes.invite("ana", token_sha256="cd" * 32, expires_at=2000.0)
    assert refusal(nodes, token_sha256=TOKEN) == "unknown"
    enrol(nodes, token="cd" * 32)


def test_an_enrolled_name_is_not_invited_again(nodes: Nodes) -> None:
    enrol(nodes)
    with pytest.raises(UsageError, match="enrolled already"):
        nodes.invite("ana", token_sha256="cd" * 32, expires_at=2000.0)


def test_a_ban_holds_at_once_and_for_good(nodes: Nodes, tmp_path: Path) -> None:
    enrol(nodes)
    gateway = Nodes(tmp_path / "nodes.sqlite")
    assert gateway.status_of("k") == "active"
    nodes.ban("ana")
    assert gateway.status_of("k") == "banned"
    assert refusal(nodes, token_sha256=TOKEN, supernode_key="k", signing_key="s") == "used"
    assert nodes.active() == []


def test_an_unknown_name_is_a_usage_error(nodes: Nodes) -> None:
    with pytest.raises(UsageError, match="no node called 'eve'"):
        nodes.ban("eve")


def test_keyless_rows_match_no_header(nodes: Nodes) -> None:
    assert nodes.status_of("") is None
    assert nodes.by_pseudonym("") is None


def test_bytes_add_up_per_node_and_strangers_are_not_kept(nodes: Nodes, clock: Clock) -> None:
    enrol(nodes)
    nodes.add_traffic({"k": (10, 20), "stranger": (1, 1), "": (5, 5)})
    clock.now = 1500.0
    nodes.add_traffic({"k": (1, 2)})
    node = nodes.by_name("ana")
    assert (node.bytes_up, node.bytes_down, node.last_seen) == (11, 22, 1500.0)
    assert len(nodes.all()) == 1


def test_the_file_is_private(nodes: Nodes, tmp_path: Path) -> None:
    assert (tmp_path / "nodes.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_header_is_what_flower_sends_for_the_key() -> None:
    keys = node_keys()
    from base64 import b64decode

    assert b64decode(header_key(keys.line)).startswith(b"-----BEGIN PUBLIC KEY-----")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIWq3VqMmUu0ZfUOc0cUoYdYQ8Xc1bBrfQ4yGxJY7Ytd",
        "ecdsa-sha2-nistp384 AAAA",
        "ñ",
    ],
)
def test_other_keys_are_refused(line: str) -> None:
    with pytest.raises(EnrolmentError) as caught:
        header_key(line)
    assert caught.value.code == "malformed"
