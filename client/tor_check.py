"""`flower-client tor check`: the whole way of this node, leg by leg, as often as asked for."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import httpx

from client import clock, keys, link
from client.config import NodeConfig, NodeHome, load_federation, server_address
from federation import probe
from federation.adapter.signing import SigningKey
from federation.errors import NetworkError, RevokedError
from federation.language import _
from federation.processes import RestartPolicy
from federation.tor.diagnosis import Check, Finding, diagnose
from federation.tor.way import Way

logger = logging.getLogger(__name__)

BACKOFF = RestartPolicy(first_s=1.0, longest_s=8.0)
Tell = Callable[[Finding], None]


@dataclass(frozen=True)
class Ears:
    """Who is told what.

    Attributes:
        tell: each finding, as soon as it is known.
        say: how far tor has come, and when it is tried again.
    """

    tell: Tell = lambda _finding: None
    say: Callable[[str], None] = lambda _line: None


def check(
    home: NodeHome,
    config: NodeConfig,
    ears: Ears,
    *,
    retries: int = 0,
    now: Callable[[], datetime] = clock.utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Finding, ...]:
    """Look at every leg; where one fails, again after a growing pause.

    Args:
        home: a home that has joined.
        config: its settings.
        ears: told of it.
        retries: how many further attempts; a failure that no further one can mend ends them.
        now: this machine's clock.
        sleep: waits between two attempts.

    Returns:
        The findings of the last attempt, one for each leg.

    Raises:
        ConfigError: this node has not joined, or its settings cannot be.
    """
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    for attempt in range(1, retries + 2):
        findings = _once(home, config, ears, now)
        failed = next((each for each in findings if each.state == "failed"), None)
        if failed is None or failed.is_final or attempt > retries:
            break
        pause = BACKOFF.delay(attempt, rng)
        logger.info("attempt %d: %s: %s", attempt, failed.leg, failed.sentence)
        ears.say(
            _("Attempt {number}: {reason} Trying again in {seconds} s.").format(
                number=attempt, reason=failed.sentence, seconds=f"{pause:.1f}"
            )
        )
        sleep(pause)
    return findings


def refusal(client: httpx.Client, key: SigningKey, moment: float) -> NetworkError | None:
    """Why the server would measure nothing with this node; None if it would.

    Args:
        client: of the gateway.
        key: the node's signing key.
        moment: Unix time by the server's clock.
    """
    size = probe.SIZES[0]
    headers = probe.headers(key, "GET", size, now=moment)
    with client.stream("GET", probe.path_of(size), headers=headers) as response:
        return refusal_of(response)  # the bytes themselves are not waited for


def refusal_of(response: httpx.Response) -> NetworkError | None:
    """What the gateway's answer to a probe means; None if it is one to an admitted node."""
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return RevokedError(
            _("The server does not admit this node: its key is unknown there or was banned."),
            hint=_("Ask the operator. A banned key stays banned: join anew from a new folder."),
        )
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return NetworkError(
            _("The server takes no measurement now: it is busy, or today's bytes are used up."),
            hint=_("Try again in a few minutes."),
        )
    if response.status_code != httpx.codes.OK:
        return NetworkError(
            _("The server measures nothing (status {status}).").format(status=response.status_code)
        )
    return None


def _once(
    home: NodeHome, config: NodeConfig, ears: Ears, now: Callable[[], datetime]
) -> tuple[Finding, ...]:
    address = server_address(config, load_federation(home).address)
    asker = _Asker(home.ca.read_text(encoding="utf-8"), keys.load_or_create(home.keys).signing, now)
    found = []
    for finding in diagnose(
        address, link.means(home, config), asker.checks(), use_tor=config.use_tor, say=ears.say
    ):
        ears.tell(finding)
        found.append(finding)
    return tuple(found)


class _Asker:
    """Asks the gateway for its health once, and lets each check look at the answer."""

    def __init__(self, certificate: str, key: SigningKey, now: Callable[[], datetime]) -> None:
        self._certificate, self._key, self._now = certificate, key, now
        self._ahead_s: float | None = None
        self._status = 0

    def checks(self) -> Sequence[Check]:
        return (
            Check("tls", self._tls),
            Check("gateway", self._gateway),
            Check("node", self._node),
            Check("clock", self._clock),
        )

    def _tls(self, way: Way) -> str:
        with link.connect(way, self._certificate) as client:
            self._status = client.get(clock.HEALTH_PATH).status_code
            self._ahead_s = clock.seconds_ahead(client, self._now)
        return ""

    def _gateway(self, _way: Way) -> str:
        if self._status != httpx.codes.OK:
            raise NetworkError(
                _(
                    "The server's gateway answers, but what is behind it is not ready ({status})."
                ).format(status=self._status),
                hint=_("Try again in a few minutes; if it stays so, tell the operator."),
            )
        return ""

    def _node(self, way: Way) -> str:
        # By the server's clock: whether ours is wrong is the next question.
        moment = self._now().timestamp() - (self._ahead_s or 0.0)
        with link.connect(way, self._certificate) as client:
            problem = refusal(client, self._key, moment)
        if isinstance(problem, RevokedError):
            raise problem
        return ""

    def _clock(self, _way: Way) -> str:
        clock.require_clock(self._ahead_s)
        return ""
