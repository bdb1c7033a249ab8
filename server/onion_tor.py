"""What is asked of the tor that publishes the onion service: publish anew, turn strangers away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from federation import durable
from federation.errors import TorError
from federation.tor.control import Control, open_control
from federation.tor.socks import SocksAddress, SocksError, dial
from server.onion_clients import PORT, Shard

logger = logging.getLogger(__name__)

STAMP = "published"
UPLOAD_S = 30.0
APART_S = 1.1
VISIT_S = 20.0
PAUSE_S = 0.5
ANSWER_S = 1.0
SHUT = 0xF4  # the descriptor cannot be read without a key
OPEN = (0x00, 0x05, 0xF2, 0xF3, 0xF7)  # it was read; others may have any cause, 04 and 01 too


def is_answering(folder: Path) -> bool:
    """Whether the tor of the onion folder answers at once."""
    try:
        with open_control(folder, answer_s=ANSWER_S):
            return True
    except TorError:
        return False


def publish(control: Control, changed: Iterable[Shard], folder: Path) -> None:
    """Let tor read its torrc and keys again, and wait until `changed` is on the directories.

    A descriptor that follows another of its service within the same second is refused by every
    directory, and tor does not try again (0.4.9). So publications keep their distance, and a
    refused one is made anew.

    Args:
        control: of the running tor.
        changed: whose keys are others than before.
        folder: the onion folder; the time of the last publication is kept there.

    Raises:
        TorError: no directory has it after `UPLOAD_S`.
    """
    shards = list(dict.fromkeys(changed))
    deadline = time.monotonic() + UPLOAD_S
    while True:
        _keep_apart(folder / STAMP)
        try:
            _publish_once(control, shards, deadline)
        except TorError:
            if deadline - time.monotonic() < APART_S:
                raise
            logger.warning("a descriptor was refused; it is made anew")
            for shard in shards:
                shard.new_sentinel()  # tor publishes only what has changed
        else:
            return
        finally:
            note_publication(folder)


def note_publication(folder: Path) -> None:
    """Remember that descriptors were uploaded just now."""
    (durable.make_folder(folder) / STAMP).touch(mode=durable.PRIVATE_FILE)


def lets_strangers_in(control: Control, host: str) -> bool:
    """Whether the service at `host` opens to a visitor without a key.

    The descriptor is fetched past the cache. A visit that ends otherwise than at it, or beyond it,
    says nothing and is tried again.

    Raises:
        TorError: that could not be found out.
    """
    deadline = time.monotonic() + VISIT_S
    is_first = True
    while time.monotonic() < deadline:
        if control.fetch(host, max(0.0, deadline - time.monotonic())):
            code = asyncio.run(_knock(SocksAddress.parse(control.socks()[0]), host))
            if code == SHUT or code in OPEN:
                return code != SHUT
            logger.info("a visit without a key ended with %s", code)
        if is_first:
            control.newnym()  # forgets which directories were asked
            is_first = False
        time.sleep(PAUSE_S)
    raise TorError(
        "the onion service could not be tried: no directory has it, or no visit came so far",
        hint="It is tried again; see: flower-server onion status",
    )


async def _knock(socks: SocksAddress, host: str) -> int | None:
    """Visit without a key; the code that tor gives, 0 for a connection."""
    try:
        _reader, writer = await dial(socks, host, PORT, purpose="stranger", timeout_s=VISIT_S)
    except SocksError as err:
        return err.code
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return 0


def _publish_once(control: Control, shards: Iterable[Shard], deadline: float) -> None:
    with ExitStack() as stack:
        uploads = [stack.enter_context(control.uploads(shard.host)) for shard in shards]
        control.reload()
        for each in uploads:
            each.wait(max(0.0, deadline - time.monotonic()))


def _keep_apart(stamp: Path) -> None:
    with suppress(FileNotFoundError):
        since = time.time() - stamp.stat().st_mtime
        time.sleep(min(APART_S, max(0.0, APART_S - since)))
