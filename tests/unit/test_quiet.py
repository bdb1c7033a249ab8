"""Flower's own SuperNode, quietened: what its requests say, and what they no longer do."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Error
from flwr.cli.build import build_fab_from_disk
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode import fleet_http_connection, node_auth_http_interceptor

from client.quiet import HEADERS, anonymous, quieten
from client.shim import own_bundle
from federation import bundle
from federation.errors import BundleError
from tests.fake_gateway import FakeGateway, serve_gateway
from tests.server_home import node_keys

NAMES = {
    *("accept", "accept-encoding", "connection", "content-length", "content-type", "host"),
    *("flwr-component-name", "flwr-package-name", "flwr-package-version"),
    *("flwr-public-key", "flwr-signature", "flwr-timestamp", "user-agent"),
}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[FakeGateway]:
    """Answers every request with 200 and an empty body, and keeps what it was sent."""
    with serve_gateway(tmp_path / "tls") as made:
        made.enrol = lambda _body: (200, b"")
        yield made


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each request; flwr's modules are quiet for the length of the test."""
    bytes_sent: list[int] = []
    client, now = fleet_http_connection.FleetHttpClient, node_auth_http_interceptor.now
    monkeypatch.setattr(fleet_http_connection, "FleetHttpClient", client)
    monkeypatch.setattr(node_auth_http_interceptor, "now", now)
    quieten(fleet_http_connection, node_auth_http_interceptor, bytes_sent.append, own_bundle)
    return bytes_sent


def client_of(gateway: FakeGateway) -> Any:
    """A Fleet client as flwr's SuperNode makes it."""
    key: Any = load_ssh_private_key(node_keys().private, None)
    connection: Any = fleet_http_connection
    return connection.FleetHttpClient.from_server_address(
        gateway.address,
        False,
        gateway.ca_certificate.encode(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            node_auth_http_interceptor.NodeAuthHttpInterceptor(key, key.public_key()),
        ],
    )


@pytest.mark.privacy
def test_a_request_has_these_headers_and_nothing_of_the_machine(
    gateway: FakeGateway, counted: list[int]
) -> None:
    with client_of(gateway) as client:
        client.ActivateNode(ActivateNodeRequest(public_key=b"x", heartbeat_interval=30.0))
    (headers,) = gateway.heard
    assert set(headers) == NAMES
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert datetime.fromisoformat(headers["flwr-timestamp"]).microsecond == 0
    said = " ".join(headers.values()).lower()
    machine = (platform.node(), platform.machine(), platform.system(), platform.python_version())
    # whole words: a short host name turns up in the base64 of a key by chance
    assert not [fact for fact in machine if re.search(rf"\b{re.escape(fact.lower())}\b", said)]
    assert gateway.address.rpartition(":")[2] not in said, "the local port is nobody's business"
    assert 800 < counted[0] < 1200


@pytest.mark.privacy
def test_how_long_a_message_took_to_compute_is_not_said(
    gateway: FakeGateway, counted: list[int]
) -> None:
    bodies: list[bytes] = []
    gateway.enrol = lambda body: (bodies.append(body), (200, b""))[1]
    with client_of(gateway) as client:
        client.PushMessages(PushMessagesRequest(clientapp_runtime_list=[12.5]))
    assert not PushMessagesRequest.FromString(bodies[0]).clientapp_runtime_list
    assert len(counted) == 1


@pytest.mark.security
def test_h27_a_redirect_leads_nowhere(gateway: FakeGateway, counted: list[int]) -> None:
    gateway.leads_to = f"https://{gateway.address}/elsewhere"
    with client_of(gateway) as client, pytest.raises(httpx.HTTPStatusError, match="307"):
        client.ActivateNode(ActivateNodeRequest())
    assert gateway.asked == ["/v1/fleet/activate-node"]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr's own use
def test_a_bundle_of_the_installed_code_is_not_fetched_another_is(
    gateway: FakeGateway, counted: list[int], tmp_path: Path
) -> None:
    fab = build_fab_from_disk(bundle.write_app(tmp_path / "app"))  # as `flwr run` on a server
    with client_of(gateway) as client:
        for _ in range(2):
            answer = client.GetFab(GetFabRequest(hash_str=hashlib.sha256(fab).hexdigest()))
            assert answer.fab.content == fab
        assert gateway.asked == []
        client.GetFab(GetFabRequest(hash_str="ab" * 32))
    assert gateway.asked == ["/v1/fleet/get-fab"]
    assert len(counted) == 1


@pytest.mark.privacy
@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("<class 'PermissionError'>:<'/home/someone/texts'>", "<class 'PermissionError'>"),
        ("An exception was raised when loading", "An exception was raised when loading"),
        (None, None),
    ],
)
def test_of_an_exception_only_the_class_is_told(reason: str | None, said: str | None) -> None:
    error = anonymous(Error)(code=1, reason=reason)
    assert (error.code, error.reason) == (1, said)


def test_a_flwr_that_talks_otherwise_is_refused() -> None:
    with pytest.raises(BundleError, match="FleetHttpClient"):
        quieten(SimpleNamespace(), node_auth_http_interceptor, print, own_bundle)
