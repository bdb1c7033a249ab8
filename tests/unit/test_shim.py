"""The shim: Flower's ClientApp process loads installed code, and nothing that a server sent."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from client import keys, shim
from client.commands import COMMANDS, write_commands
from federation import bundle
from federation.errors import BundleError
from tests.fake_gateway import serve_gateway
from tests.unit.test_bundle import changed_byte, make_fab


def stand_in() -> SimpleNamespace:
    """What the shim replaces in flwr's `run_clientapp` module."""
    return SimpleNamespace(
        install_from_fab=None,
        get_load_client_app_fn=None,
        install_app_dependencies=None,
        Error=SimpleNamespace,
    )


def test_flwr_still_has_what_the_shim_replaces() -> None:
    from flwr.supernode.runtime import run_clientapp

    for name in vars(stand_in()):
        assert callable(getattr(run_clientapp, name))


@pytest.mark.parametrize(
    ("package", "name", "runs"),
    [
        ("flwr.supernode.cli", "flwr_clientapp", "flwr.supernode.runtime.run_clientapp"),
        ("flwr.supercore.cli", "flower_superexec", "flwr.supercore.superexec.run_superexec"),
    ],
)
def test_a_lone_command_comes_without_the_database_and_the_web_server(
    package: str, name: str, runs: str
) -> None:
    code = f"""
import importlib, sys
from federation.lone import lone_command
command = lone_command("{package}", "{name}")
function = "{runs}".rpartition(".")[2]
assert getattr(command, function) is getattr(importlib.import_module("{runs}"), function)
assert callable(command.{name})
print([name for name in ("sqlalchemy", "alembic", "uvicorn") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_flwr_without_those_functions_is_refused() -> None:
    with pytest.raises(BundleError, match="install_from_fab"):
        shim.guard(SimpleNamespace())


@pytest.mark.security
def test_h26_the_guarded_runtime_refuses_one_changed_byte_and_unpacks_nothing() -> None:
    runtime = stand_in()
    shim.guard(runtime)
    runtime.install_from_fab(make_fab(bundle.room_files()), skip_prompt=True)
    files = bundle.room_files()
    changed_byte(files)
    with pytest.raises(BundleError, match=r"strategies/__init__\.py"):
        runtime.install_from_fab(make_fab(files), skip_prompt=True)
    assert not Path(os.environ["FLWR_HOME"]).exists()


@pytest.mark.security
def test_h26_nothing_is_installed_at_run_time() -> None:
    runtime = stand_in()
    shim.guard(runtime)
    with pytest.raises(BundleError, match="dependencies"):
        runtime.install_app_dependencies("anything", launch_id="x")


@pytest.mark.security
def test_h26_the_installed_client_app_is_loaded_not_an_unpacked_one(tmp_path: Path) -> None:
    # A folder that lies in Flower's place for unpacked bundles, as somebody may have left it.
    code = textwrap.dedent(
        """
        import sys
        from flwr.supernode.runtime import run_clientapp
        from client import shim
        shim.guard(run_clientapp)
        load = run_clientapp.get_load_client_app_fn(default_app_ref="", app_path=None,
                                                    multi_app=True)
        app = load("conscienceai/conscienceai", "0.1.0", "ab" * 32)
        print(sys.modules["client.client_app"].__file__, type(app).__name__)
        """
    )
    planted = tmp_path / "flwr" / "apps" / ("conscienceai.conscienceai.0.1.0." + "ab" * 4)
    (planted / "client").mkdir(parents=True)
    (planted / "client" / "client_app.py").write_text("raise SystemExit('planted code ran')")
    (planted / "pyproject.toml").write_text(
        '[project]\nname = "conscienceai"\nversion = "0.1.0"\n[tool.flwr.app]\n'
        'publisher = "conscienceai"\n[tool.flwr.app.components]\n'
        'clientapp = "client.client_app:app"\nserverapp = "server.server_app:app"\n'
    )
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "FLWR_HOME": str(tmp_path / "flwr")},
        cwd=planted,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    loaded, kind = answer.stdout.split()[-2:]
    assert (Path(loaded).parent, kind) == (bundle.rooms_folder() / "client", "ClientApp")


@pytest.mark.security
def test_h26_every_command_that_flwr_starts_for_a_task_is_ours() -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    assert set(TASK_TYPE_TO_COMMAND.values()) == set(COMMANDS)


@pytest.mark.security
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "flwr-clientapp"])
def test_h26_other_kinds_of_task_are_refused(name: str) -> None:
    with pytest.raises(SystemExit, match=f"{name} is refused"):
        shim.main([name, "--token", "x"])


@pytest.mark.skipif(os.name != "posix", reason="shell scripts")
def test_the_commands_are_private_and_need_no_search_path(tmp_path: Path) -> None:
    folder = write_commands(tmp_path / "a folder with spaces" / "bin")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    script = folder / "flwr-serverapp"
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    answer = subprocess.run(
        [str(script)], env={}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 1
    assert "flwr-serverapp is refused" in answer.stderr


@pytest.mark.security
@pytest.mark.skipif(os.name != "posix", reason="shell scripts")
def test_h20_a_planted_python_or_room_in_the_working_folder_is_not_run(tmp_path: Path) -> None:
    folder = write_commands(tmp_path / "bin")
    planted = tmp_path / "planted"
    (planted / "client").mkdir(parents=True)
    (planted / "client" / "__init__.py").write_text("raise SystemExit('planted room ran')")
    for name in ("python", "python3", "sh"):
        (planted / name).write_text("#!/bin/sh\necho planted program ran\n")
        (planted / name).chmod(0o755)
    answer = subprocess.run(
        [str(folder / "flwr-clientapp"), "--help"],
        env={**os.environ, "PATH": f"{planted}{os.pathsep}{os.environ['PATH']}"},
        cwd=planted,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "usage: flwr-clientapp" in answer.stdout
    assert "planted" not in answer.stdout + answer.stderr


def test_the_first_command_on_the_path_is_ours(tmp_path: Path) -> None:
    folder = write_commands(tmp_path / "bin")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    assert Path(shutil.which("flwr-clientapp", path=path) or "").parent == folder


@pytest.mark.parametrize(("status", "admitted"), [(401, False), (412, True), (503, True)])
def test_a_key_that_is_not_admitted_is_told_apart_from_a_node_that_was_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, admitted: bool
) -> None:
    node_keys = keys.load_or_create(tmp_path / "keys")
    monkeypatch.setenv(shim.FLOWER_NODE, "123")
    with serve_gateway(tmp_path / "tls") as gateway:
        gateway.enrol = lambda _body: (status, b"")
        (tmp_path / "ca.crt").write_text(gateway.ca_certificate)
        arguments = ["--superlink", gateway.address, "--isolation", "process"]
        arguments += ["--root-certificates", str(tmp_path / "ca.crt")]
        arguments += ["--auth-supernode-private-key", str(node_keys.supernode_private)]
        assert shim.leave_old_place(arguments) is admitted
        assert gateway.asked == ["/v1/fleet/deactivate-node"]
    assert shim.leave_old_place(arguments), "a server that is down decides nothing"


SUPERNODE = """
import sys, threading, types
sys.argv = ["flower-supernode"]
module = types.ModuleType("flwr.supernode.cli")
def flower_supernode():
    threading.Thread(target=threading.Event().wait, args=(600,)).start()  # its server's thread
    {body}
module.flower_supernode = flower_supernode
sys.modules["flwr.supernode.cli"] = module
from client import shim
shim.supernode()
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return", "lost its connection"),
        ("raise ValueError('500 Internal Server Error')", "500 Internal"),
        (
            "t = threading.Thread(target=lambda: 1 / 0, name='beat'); t.start(); t.join(); "
            "threading.Event().wait(600)",
            "a part of the SuperNode failed: beat",
        ),
    ],
    ids=["came back", "raised", "heartbeat thread died"],
)
def test_a_supernode_that_stopped_working_ends_its_process(body: str, said: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SUPERNODE.format(body=body)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1
    assert said in answer.stderr
