"""Redeeming an invitation at the gateway: proof, claim, registration with Flower, welcome.

The order matters. The claim is atomic and comes before Flower hears of the key, so a token admits
one node even if two ask at once. If Flower cannot be reached the claim is given back. The same node
asking again gets the same answer: a reply lost on the way burns no invitation.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from federation import invitation
from federation.adapter.signing import pseudonym
from federation.errors import ConscienceError, ProcessError
from federation.invitation import MAX_ENROL_BYTES, EnrolReply, EnrolRequest
from server.control import KEY_IN_USE, SuperLink
from server.limits import RateLimit
from server.nodes import EnrolmentError, Node, Nodes, header_key
from server.registry import Registry

logger = logging.getLogger(__name__)

READ_S = 30.0
STATUS = {
    "malformed": 400,
    "unknown": 403,
    "used": 403,
    "expired": 403,
    "key-in-use": 409,
    "busy": 429,
    "unavailable": 503,
}


class Enrolment:
    """Enrols nodes, one at a time.

    Args:
        nodes: the node book.
        superlink: registers a key with Flower.
        registry: gives the spec and the current version.
        limit: how often anybody may try; before enrolment all callers look alike.
    """

    def __init__(
        self, nodes: Nodes, superlink: SuperLink, registry: Registry, *, limit: RateLimit
    ) -> None:
        self._nodes = nodes
        self._superlink = superlink
        self._registry = registry
        self._limit = limit
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, request: Request) -> Response:
        """Answer `POST /enrol`."""
        try:
            self._require_patience()
            wanted = _parse(await _read(request))
            async with self._one_at_a_time:
                node = await asyncio.to_thread(self.admit, wanted)
            reply = await asyncio.to_thread(self._welcome, node)
        except EnrolmentError as err:
            logger.warning("an enrolment was refused: %s", err.code)
            content = {"code": err.code, "message": err.message}
            return JSONResponse(content, status_code=STATUS[err.code])
        logger.info("node %s (%s) has enrolled", node.pseudonym, node.name)
        return JSONResponse(reply.model_dump(mode="json"))

    def admit(self, wanted: EnrolRequest) -> Node:
        """Enrol the sender of a well-formed request.

        Raises:
            EnrolmentError: refused; its code says why.
        """
        if not invitation.proof_holds(wanted):
            raise EnrolmentError("malformed", "the request is not signed by the key it names")
        header = header_key(wanted.supernode_key)
        claim = self._nodes.claim(
            invitation.token_hash(wanted.token),
            supernode_key=header,
            signing_key=wanted.signing_key,
        )
        if claim.is_repeat:
            return self._nodes.by_name(claim.name)
        return register(self._nodes, self._superlink, claim.name, header, wanted.signing_key)

    def _require_patience(self) -> None:
        if not self._limit.allows():
            raise EnrolmentError("busy", "too many attempts, try again in a minute")

    def _welcome(self, node: Node) -> EnrolReply:
        try:
            current = self._registry.current
            # what a version adds to the base travels in the first round, and the version with it
            whole = self._registry.manifest(current).base is None
            package = self._registry.package(current) if whole else b""
            return EnrolReply(
                name=node.name,
                pseudonym=node.pseudonym,
                flower_node_id=node.flower_node_id,
                spec=self._registry.spec.to_json(),
                current_version=current,
                package=base64.b64encode(package).decode("ascii"),
            )
        except ConscienceError as err:
            logger.exception("the registry cannot be read")
            raise EnrolmentError("unavailable", "the server is not ready, try again") from err


def register(
    nodes: Nodes, superlink: SuperLink, name: str, supernode_key: str, signing_key: str
) -> Node:
    """Make a claimed node known to Flower and active; `supernode_key` is its header value.

    Raises:
        EnrolmentError: Flower was not reachable (the claim is given back) or knows the key.
    """
    try:
        node_id = superlink.register(supernode_key)
    except ProcessError as err:
        nodes.release(name)
        if KEY_IN_USE in err.message:
            raise EnrolmentError("key-in-use", "this node's key was admitted before") from err
        logger.exception("a node could not be registered with Flower")
        raise EnrolmentError("unavailable", "the server is not ready, try again") from err
    return nodes.activate(name, pseudonym=pseudonym(signing_key), flower_node_id=node_id)


async def _read(request: Request) -> bytes:
    data = bytearray()
    try:
        async with asyncio.timeout(READ_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > MAX_ENROL_BYTES:
                    raise EnrolmentError("malformed", "the request is too large")
    except (TimeoutError, ClientDisconnect) as err:
        raise EnrolmentError("malformed", "the request did not arrive") from err
    return bytes(data)


def _parse(data: bytes) -> EnrolRequest:
    try:
        return EnrolRequest.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError):
        # The chained error would quote the request, and the token is in it.
        raise EnrolmentError("malformed", "the request cannot be read") from None
