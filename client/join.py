"""Joining a federation: from an invitation to a node that is ready, in one step."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
from pydantic import ValidationError

from client import clock, keys, leftovers, link
from client.adapters import AdapterStore
from client.base import find_base, search_folder
from client.config import (
    Federation,
    NodeConfig,
    NodeHome,
    goes_through_tor,
    host_of,
    server_address,
    write_default,
)
from federation import bundle, durable, invitation, settings
from federation.adapter.format import AdapterSpec
from federation.errors import (
    BaseMismatchError,
    ClockError,
    FormatError,
    InvitationError,
    NetworkError,
    RevokedError,
    UsageError,
)
from federation.invitation import EnrolRefusal, EnrolReply, EnrolRequest, Invitation
from federation.language import _
from federation.model.choose import BaseChoice
from federation.tor.keys import is_onion


@dataclass(frozen=True)
class Joined:
    """What came of joining.

    Attributes:
        notes: sentences the owner should read; nothing that stands in the way.
    """

    federation: Federation
    base: str
    notes: tuple[str, ...] = ()


def join(
    home: NodeHome,
    config: NodeConfig,
    source: str,
    *,
    allow_download: bool = False,
    now: Callable[[], datetime] = clock.utc_now,
    say: Callable[[str], None] = lambda _line: None,
) -> Joined:
    """Redeem an invitation; nothing is kept of a failed attempt but the node's keys.

    Args:
        home: the node's home.
        config: its settings.
        source: the invitation's text, or a file that holds it.
        allow_download: whether the base model may be fetched from its hub.
        now: the time, with a zone.
        say: told how far tor has come, if it is needed.

    Raises:
        UsageError: this home has joined already, or its settings forbid Tor and it is needed.
        InvitationError: malformed, forged, used or expired.
        BaseMismatchError: the federation's base model is not at hand.
        TorError: Tor is needed and does not work, or does not reach the server.
        NetworkError: the server cannot be reached, or its answer makes no sense.
        ClockError: the clocks differ too much.
        RevokedError: this node's keys were used before.
    """
    if home.federation.exists():
        raise UsageError(
            _("This node has already joined a federation ({path}).").format(path=home.federation),
            hint=_("To join another one, use another folder: flower-client --home DIR join …"),
        )
    invited = invitation.read(source)
    write_default(home)
    address = server_address(config, invited.address)
    base = _base(home, config, invited, address, allow_download=allow_download)
    node_keys = keys.load_or_create(home.keys)
    _keep_onion_key(home, invited, host_of(address))
    request = invitation.enrol_request(invited.token, node_keys.supernode_public, node_keys.signing)
    gateway = link.reach(home, config, address, invited.ca_certificate, purpose="join", say=say)
    reply = _enrol(invited, gateway, request, now)
    federation = _agree(invited, reply, node_keys.node, now())
    earlier = leftovers.put_aside(home, config, now())
    durable.write_text(home.ca, invited.ca_certificate)
    if reply.package:
        AdapterStore(home, federation).install(_package(reply))
    settings.save(federation, home.federation)  # last: its presence means "joined"
    return Joined(federation, base.ref, _notes(invited, earlier))


def _base(
    home: NodeHome, config: NodeConfig, invited: Invitation, address: str, *, allow_download: bool
) -> BaseChoice:
    """Find the base model; a hub is asked only by a node that may connect around Tor."""
    through_tor = goes_through_tor(config, address)
    try:
        return find_base(
            home,
            config,
            base_ref=invited.base_ref,
            base_hash=invited.base_hash,
            allow_download=allow_download and not through_tor,
        )
    except BaseMismatchError as err:
        if not (allow_download and through_tor):
            raise
        raise BaseMismatchError(
            _(
                "The base model {name} is not on this machine, and it is not fetched around Tor."
            ).format(name=invited.base_ref),
            hint=_("Put it into {folder}, then join without --download.").format(
                folder=search_folder(home, config)
            ),
        ) from err


def _keep_onion_key(home: NodeHome, invited: Invitation, host: str) -> None:
    """Keep the key to the server's onion service: the first contact needs it already."""
    if not (is_onion(host) and invited.onion_key):
        return
    try:
        keys.keep_onion_key(home.onion_key, host, invited.onion_key)
    except ValueError as err:
        raise InvitationError(
            _("The key to the server's onion service in this invitation cannot be right."),
            hint=_("Ask the operator for a new invitation."),
        ) from err


def _enrol(
    invited: Invitation,
    gateway: AbstractContextManager[httpx.Client],
    request: EnrolRequest,
    now: Callable[[], datetime],
) -> EnrolReply:
    has_expired = invited.expired(now())
    try:
        with gateway as client:
            # The clock first: a wrong one makes a good invitation look expired.
            clock.require_clock(clock.seconds_ahead(client, now))
            if has_expired:
                raise _expired()
            response = client.post(
                invitation.ENROL_PATH,
                content=request.model_dump_json(),
                headers={"content-type": "application/json"},
            )
    except NetworkError as err:
        if has_expired and not isinstance(err, ClockError):
            raise _expired() from err
        raise
    return _read_reply(response)


def _read_reply(response: httpx.Response) -> EnrolReply:
    if response.status_code != 200:
        raise _refused(response)
    try:
        return EnrolReply.model_validate_json(response.content)
    except ValidationError as err:
        raise _senseless() from err


def _package(reply: EnrolReply) -> bytes:
    try:
        return base64.b64decode(reply.package, validate=True)
    except binascii.Error as err:
        raise _senseless() from err


def _refused(response: httpx.Response) -> NetworkError:
    try:
        code = EnrolRefusal.model_validate_json(response.content).code
    except ValidationError:
        code = ""
    ask = _("Ask the operator for a new one.")
    known: dict[str, NetworkError] = {
        "used": InvitationError(_("This invitation has been used already."), hint=ask),
        "expired": _expired(),
        "unknown": InvitationError(_("The server does not know this invitation."), hint=ask),
        "malformed": InvitationError(_("The server could not read this invitation."), hint=ask),
        "key-in-use": RevokedError(
            _("The server knows this node's keys from before; a banned key stays banned."),
            hint=_("Join from a new folder (flower-client --home DIR join …): it makes new keys."),
        ),
    }
    return known.get(code) or NetworkError(
        _("The server cannot take new nodes at the moment (status {status}).").format(
            status=response.status_code
        ),
        hint=_("Try again in a few minutes; the invitation is still good."),
    )


def _agree(invited: Invitation, reply: EnrolReply, node: str, now: datetime) -> Federation:
    """Hold the server's answer against the signed invitation."""
    try:
        spec = AdapterSpec.from_json(reply.spec)
    except FormatError as err:
        raise _senseless() from err
    if spec.spec_hash != invited.spec_hash or spec.base_hash != invited.base_hash:
        raise InvitationError(
            _("The server's adapter is not the one that the operator's invitation names."),
            hint=_("Ask the operator for a new invitation."),
        )
    if reply.pseudonym != node:
        raise _senseless()
    return Federation(
        address=invited.address,
        base_ref=invited.base_ref,
        base_hash=invited.base_hash,
        spec=spec.to_json(),
        operator_key=invited.operator_key,
        bundle_hash=invited.bundle_hash,
        node=node,
        name=reply.name,
        flower_node_id=reply.flower_node_id,
        joined_at=now.isoformat(timespec="seconds"),
    )


def _notes(invited: Invitation, earlier: Path | None) -> tuple[str, ...]:
    notes = []
    if bundle.bundle_hash() != invited.bundle_hash:
        notes.append(
            _(
                "The server's code differs from the code installed here ({version}): install the "
                "operator's version, or this node will refuse its rounds."
            ).format(version=bundle.installed_version())
        )
    if earlier is not None:
        notes.append(
            _(
                "Adapters and packages of an earlier federation were moved to {folder}; nothing "
                "was deleted, and nothing of it is offered to this one."
            ).format(folder=earlier)
        )
    return tuple(notes)


def _expired() -> InvitationError:
    return InvitationError(
        _("This invitation has expired."), hint=_("Ask the operator for a new one.")
    )


def _senseless() -> NetworkError:
    return NetworkError(_("The server's answer makes no sense; it may be of another version."))
