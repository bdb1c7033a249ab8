"""HTTPS to the gateway, trusting the invitation's certificate authority and nothing else.

No proxy variables, no system certificates, no redirects. Only `join` and the clock check use
this; everything else a node says goes through Flower's SuperNode.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from federation.errors import InvitationError, NetworkError
from federation.language import _

TIMEOUT_S = 20.0


@contextmanager
def connect(
    address: str, ca_certificate: str, *, timeout_s: float = TIMEOUT_S
) -> Iterator[httpx.Client]:
    """A client for `https://address`.

    Args:
        address: "host:port".
        ca_certificate: PEM text, the only trust.
        timeout_s: of each step of a request.

    Raises:
        NetworkError: raised in the block when the server cannot be reached or has another
            certificate.
        InvitationError: the certificate cannot be read.
    """
    try:
        trust = ssl.create_default_context(cadata=ca_certificate)
    except (ssl.SSLError, ValueError) as err:
        raise InvitationError(_("The certificate in the invitation cannot be read.")) from err
    try:
        with httpx.Client(
            base_url=f"https://{address}", verify=trust, trust_env=False, timeout=timeout_s
        ) as client:
            yield client
    except httpx.TransportError as err:
        raise _unreachable(address, err) from err


def _unreachable(address: str, err: httpx.TransportError) -> NetworkError:
    if "CERTIFICATE_VERIFY_FAILED" in str(err):
        return NetworkError(
            _("{address} shows a certificate that is not this federation's.").format(
                address=address
            ),
            hint=_("Somebody may be in between, or the server was set up anew: ask the operator."),
        )
    return NetworkError(
        _("The server at {address} could not be reached ({why}).").format(
            address=address, why=str(err) or type(err).__name__
        ),
        hint=_("Check your connection and try again; the server may be down."),
    )
