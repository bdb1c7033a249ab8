"""The reader of strace's lines: nothing that goes beyond this machine passes it unseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.strace_log import Attempt, attempts, leaks, read

CONNECT = "connect(3, {sa_family=AF_INET, sin_port=htons(%d), sin_addr=inet_addr(%s)}, 16) = 0"
LEAKS = {
    CONNECT % (80, '"192.0.2.1"'): Attempt("connect", "AF_INET", "192.0.2.1", 80),
    CONNECT % (53, '"127.0.0.53"'): Attempt("connect", "AF_INET", "127.0.0.53", 53),
    (
        'sendto(4, ""..., 5, 0, {sa_family=AF_INET, sin_port=htons(123), '
        'sin_addr=inet_addr("192.0.2.9")}, 16) = -1 ENETUNREACH (Network is unreachable)'
    ): Attempt("sendto", "AF_INET", "192.0.2.9", 123),
    (
        "sendmsg(4, {msg_name={sa_family=AF_INET, sin_port=htons(124), "
        'sin_addr=inet_addr("192.0.2.10")}, msg_namelen=16, msg_iov=[...]}, 0) = 5'
    ): Attempt("sendmsg", "AF_INET", "192.0.2.10", 124),
    (
        "connect(5, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), "
        'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = -1 EINPROGRESS'
    ): Attempt("connect", "AF_INET6", "2001:db8::1", 443),
    (
        "[pid  4711] connect(3, {sa_family=AF_INET, sin_port=htons(80), "
        'sin_addr=inet_addr("10.0.0.1")}, 16 <unfinished ...>'
    ): Attempt("connect", "AF_INET", "10.0.0.1", 80),
    "connect(3, {sa_family=AF_BLUETOOTH, sa_data=...}, 8) = 0": Attempt("connect", "AF_BLUETOOTH"),
}
LOCAL = (
    CONNECT % (9050, '"127.0.0.1"'),
    (
        "connect(5, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), "
        'inet_pton(AF_INET6, "::ffff:127.0.0.1", &sin6_addr), sin6_scope_id=0}, 28) = 0'
    ),
    'connect(3, {sa_family=AF_UNIX, sun_path="/tmp/socks.sock"}, 24) = 0',
    'connect(3, {sa_family=AF_UNIX, sun_path=@"abstract"}, 24) = 0',
    'sendto(3, ""..., 20, 0, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 20',
    "connect(3, {sa_family=AF_UNSPEC, sa_data=...}, 16) = 0",
)
NOBODY = (
    'sendto(7, ""..., 100, 0, NULL, 0)       = 100',
    "--- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED, si_pid=1, si_uid=0} ---",
    "<... connect resumed>) = 0",
)


@pytest.mark.parametrize("line", LEAKS, ids=range(len(LEAKS)))
def test_what_goes_beyond_this_machine_or_asks_for_a_name_is_a_leak(line: str) -> None:
    assert leaks(attempts([line, line])) == [LEAKS[line]]


@pytest.mark.parametrize("line", LOCAL, ids=range(len(LOCAL)))
def test_what_stays_on_this_machine_is_seen_and_is_none(line: str) -> None:
    (attempt,) = attempts([line])
    assert not attempt.is_leak


def test_several_messages_of_one_call_are_all_seen() -> None:
    """The resolver of the C library asks for both kinds of address in one call."""
    line = (
        "sendmmsg(3, [{msg_hdr={msg_name={sa_family=AF_INET, sin_port=htons(53), "
        'sin_addr=inet_addr("10.0.0.2")}, msg_namelen=16}, msg_len=30}, {msg_hdr={msg_name='
        '{sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.3")}}}], 2, 0) = 2'
    )
    assert [attempt.address for attempt in attempts([line])] == ["10.0.0.2", "10.0.0.3"]


def test_lines_that_name_nobody_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "trace.1").write_text("\n".join(NOBODY))
    (tmp_path / "trace.2").write_text(CONNECT % (80, '"192.0.2.1"'))
    assert [attempt.address for attempt in read(tmp_path / "trace")] == ["192.0.2.1"]
