"""Our entrances to Flower's processes on a node: only installed code runs (flwr door).

Run as `python -P -m client.shim NAME …`, NAME being a Flower command:

flwr-clientapp    Flower's own, except that the bundle sent by the server is compared with the
                  installed rooms instead of being unpacked, and the installed ClientApp is loaded.
                  (Flower never rewrites a bundle that lies unpacked already: code there may have
                  been changed since, so nothing is imported from there.)
flower-supernode  Flower's own, but quiet (`client.quiet`), and everything it sends is counted. The
                  bundle is fetched only where it is another than the installed code makes.
                  Losing its connection or its heartbeat ends the process.
                  Unaided it lives on, connected to nothing, when a request is answered with a
                  status that it does not retry (413, 429, 500). And first it tells the server that
                  the SuperNode before it is gone: after a crash Flower would refuse the same key
                  for a minute, in the same words as a key that is not admitted.
flower-superexec  Flower's own, except that the tokens of tasks are on no command line.
flwr-…            other kinds of task run code from the bundle: refused.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from client.quiet import anonymous, quieten
from client.sent import Meter
from federation import bundle, redaction, task_token
from federation.bundle import check_fab, rooms_folder
from federation.errors import BundleError
from federation.lone import lone_command

CLIENT_APP = "client.client_app"
FLOWER_NODE = "CONSCIENCE_FLOWER_NODE"
NOT_ADMITTED = "the server does not admit this node's key"
REFUSED = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
_REPLACED = ("install_from_fab", "get_load_client_app_fn", "install_app_dependencies", "Error")


def clientapp() -> None:
    """Run `flwr-clientapp` with the check in place of the installation."""
    from flwr.supernode.runtime import run_clientapp

    guard(run_clientapp)
    lone_command("flwr.supernode.cli", "flwr_clientapp").flwr_clientapp()


def guard(runtime: Any) -> None:  # noqa: ANN401 - flwr's module, or a stand-in in tests
    """Replace what `runtime` (flwr's `run_clientapp` module) installs and loads.

    Raises:
        BundleError: this version of flwr has no such functions: nothing would be checked.
    """
    for name in _REPLACED:
        if not hasattr(runtime, name):
            raise BundleError(f"this version of Flower has no {name}: its bundles go unchecked")

    def check(fab: bytes, *_args: object, **_kwargs: object) -> None:
        check_fab(fab)

    def get_loader(*_args: object, **_kwargs: object) -> Callable[..., Any]:
        return lambda *_fab: installed_client_app()

    runtime.install_from_fab = check
    runtime.get_load_client_app_fn = get_loader
    runtime.install_app_dependencies = _refuse_dependencies
    runtime.Error = anonymous(runtime.Error)


def installed_client_app() -> Any:  # noqa: ANN401 - flwr's ClientApp
    """Import the installed ClientApp.

    Raises:
        BundleError: Python finds another package of that name first.
    """
    module = importlib.import_module(CLIENT_APP)
    found = Path(module.__file__ or "").resolve()
    if found.parent != rooms_folder() / "client":
        raise BundleError(f"{CLIENT_APP} is imported from {found.parent}, not from our rooms")
    return module.app


def supernode() -> None:
    """Run `flower-supernode`; end the process when it stops working."""
    from flwr.supernode import fleet_http_connection, node_auth_http_interceptor
    from flwr.supernode.cli import flower_supernode

    from client.config import find_home

    threading.excepthook = _end_with_thread
    meter = Meter(find_home().sent)
    quieten(fleet_http_connection, node_auth_http_interceptor, meter.add, own_bundle)
    try:
        if not leave_old_place(sys.argv[1:]):
            _end(NOT_ADMITTED)
        flower_supernode()
    except Exception:  # noqa: BLE001 - the interpreter would wait for Flower's server thread
        traceback.print_exc()
    finally:
        meter.flush()
    # It came back: the connection is lost, but its local server's thread keeps the process alive.
    _end("the SuperNode lost its connection")


def own_bundle(fab_hash: str) -> Any:  # noqa: ANN401 - flwr's GetFabResponse
    """Answer a request for the bundle of this hash, if the installed code makes that very one.

    Built as the server builds it, so equal code and an equal Flower give equal bytes. Whatever
    comes to the ClientApp, from here or from the server, is checked there.

    Returns:
        None if it is another: then the server is asked, and the check names what differs.
    """
    from click import ClickException
    from flwr.cli.build import build_fab_from_files
    from flwr.proto.fab_pb2 import Fab, GetFabResponse

    try:
        fab, _ = build_fab_from_files(bundle.app_files())
    except (BundleError, ValueError, ClickException):  # incomplete, or another Flower
        return None
    if hashlib.sha256(fab).hexdigest() != fab_hash:
        return None
    return GetFabResponse(fab=Fab(hash_str=fab_hash, content=fab))


def leave_old_place(arguments: Sequence[str]) -> bool:
    """Sign off the SuperNode that ran before this one with the same key.

    Args:
        arguments: `flower-supernode`'s own; the node's number is in CONSCIENCE_FLOWER_NODE.

    Returns:
        False if the server knows no such node with this key. True if it does, or was not reached:
        then the SuperNode itself goes on trying.
    """
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supernode import fleet_http_connection
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    connection: Any = fleet_http_connection
    known = _connection_arguments(arguments)
    node = os.environ.get(FLOWER_NODE, "")
    if not node or not known.auth_supernode_private_key or not known.root_certificates:
        return True
    private: Any = load_ssh_private_key(known.auth_supernode_private_key.read_bytes(), None)
    signer = NodeAuthHttpInterceptor(private, private.public_key())
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    certificates = known.root_certificates.read_bytes()
    try:
        with connection.FleetHttpClient.from_server_address(
            known.superlink, False, certificates, interceptors=[version, signer]
        ) as client:
            client.DeactivateNode(DeactivateNodeRequest(node_id=int(node)))
    except httpx.HTTPStatusError as err:
        return err.response.status_code != httpx.codes.UNAUTHORIZED  # 412: it was not online
    except httpx.TransportError:
        return True
    return True


def superexec() -> None:
    """Run `flower-superexec`."""
    from flwr.supercore.superexec.executor import subprocess_executor

    task_token.hide(subprocess_executor)
    lone_command("flwr.supercore.cli", "flower_superexec").flower_superexec()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the Flower command named by the first argument."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    if name in REFUSED:
        raise SystemExit(f"{name} is refused: a node runs the installed ClientApp and nothing else")
    redaction.install()
    sys.argv = [name, *task_token.take(rest, sys.stdin)]
    {"flwr-clientapp": clientapp, "flower-supernode": supernode, "flower-superexec": superexec}[
        name
    ]()


def _connection_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--superlink", default="")
    parser.add_argument("--root-certificates", type=Path)
    parser.add_argument("--auth-supernode-private-key", type=Path)
    return parser.parse_known_args(arguments)[0]


def _refuse_dependencies(*_args: object, **_kwargs: object) -> NoReturn:
    raise BundleError("installing dependencies at run time is refused")


def _end_with_thread(failure: threading.ExceptHookArgs) -> None:
    traceback.print_exception(failure.exc_type, failure.exc_value, failure.exc_traceback)
    _end(f"a part of the SuperNode failed: {getattr(failure.thread, 'name', '?')}")


def _end(why: str) -> NoReturn:
    print(why, file=sys.stderr, flush=True)  # noqa: T201 - our parent reads it
    os._exit(1)


if __name__ == "__main__":
    main()
