"""The Flower App bundle: exactly the rooms' code, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from federation import bundle
from federation.errors import BundleError

REPOSITORY = Path(__file__).resolve().parents[2]
FLWR = [sys.executable, "-c", "from flwr.cli.app import app; app()"]


def make_fab(files: dict[str, bytes], *, project: str | None = None) -> bytes:
    """A bundle as flwr builds one."""
    text = project or (
        '[project]\nname = "conscienceai"\nversion = "9.9.9"\n[tool.flwr.app.components]\n'
        'serverapp = "server.server_app:app"\nclientapp = "client.client_app:app"\n'
    )
    members = {"pyproject.toml": text.encode(), **files}
    manifest = "\n".join(
        f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}"
        for name, data in members.items()
    )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(".info/CONTENT", manifest)
    return buffer.getvalue()


def changed_byte(files: dict[str, bytes]) -> None:
    data = files["strategies/__init__.py"]
    files["strategies/__init__.py"] = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]


def build(app: Path, into: Path) -> bytes:
    """Build `app` with the real flwr, offline."""
    into.mkdir()
    subprocess.run(
        [*FLWR, "build", "--app", str(app)],
        cwd=into,
        env={**os.environ, "FLWR_HOME": str(into / "flwr"), "COLUMNS": "200"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    (fab,) = into.glob("*.fab")
    return fab.read_bytes()


def expected_names() -> set[str]:
    return {*bundle.room_files(), bundle.PROJECT, bundle.MANIFEST}


@pytest.mark.security
def test_h26_the_bundle_holds_the_rooms_code_and_the_licence_alone() -> None:
    names = set(bundle.room_files())
    assert {"client/shim.py", "federation/bundle.py", "server/__init__.py"} <= names
    assert {name for name in names if not name.endswith(".py")} == {"LICENSE"}
    assert {name.split("/")[0] for name in names} == {*bundle.ROOMS, "LICENSE"}


def test_the_hash_depends_on_names_and_content() -> None:
    files = {"a.py": b"1", "b.py": b"2"}
    known = bundle.bundle_hash(files)
    assert bundle.bundle_hash(dict(reversed(files.items()))) == known
    assert bundle.bundle_hash({"a.py": b"2", "b.py": b"1"}) != known
    assert bundle.bundle_hash({"a.py": b"1", "c.py": b"2"}) != known
    assert bundle.bundle_hash() == bundle.bundle_hash(bundle.room_files())


def test_the_written_app_builds_to_exactly_the_rooms_with_the_real_flwr(tmp_path: Path) -> None:
    app = bundle.write_app(tmp_path / "app")
    fab = build(app, tmp_path / "out")
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        assert set(archive.namelist()) == expected_names()
    assert bundle.check_fab(fab) == bundle.installed_version()


def test_an_installed_wheel_makes_the_same_bundle_as_a_checkout(tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    files = bundle.room_files()
    licence = files.pop(bundle.LICENSE)
    info = site / "conscienceai-0.1.0.dist-info"
    installed = {f"{info.name}/licenses/LICENSE": licence, **files}
    record = "".join(f"{name},,\n" for name in installed)
    installed |= {
        f"{info.name}/METADATA": b"Metadata-Version: 2.4\nName: conscienceai\nVersion: 0.1.0\n",
        f"{info.name}/RECORD": record.encode(),
        "LICENSE": b"of another package",
    }
    for name, data in installed.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(data)
    code = "from federation import bundle; print(bundle.__file__, bundle.bundle_hash())"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert answer.stdout.split() == [str(site / "federation" / "bundle.py"), bundle.bundle_hash()]


def test_the_repository_is_the_same_flower_app(tmp_path: Path) -> None:
    if not (REPOSITORY / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    # flwr matches every path below the app's folder, and a virtual environment has fifty thousand
    elsewhere = shutil.ignore_patterns(".venv", ".git", ".*_cache", "__pycache__")
    app = shutil.copytree(REPOSITORY, tmp_path / "app", ignore=elsewhere)
    fab = build(app, tmp_path / "out")
    with zipfile.ZipFile(io.BytesIO(fab)) as archive:
        assert set(archive.namelist()) == expected_names()
    assert bundle.check_fab(fab) == bundle.installed_version()


def test_writing_the_app_again_removes_code_of_another_version(tmp_path: Path) -> None:
    app = bundle.write_app(tmp_path / "app")
    (app / "client" / "left_over.py").write_text("print('old')")
    (app / "client" / "cli.py").write_text("print('old')")
    bundle.write_app(app)
    assert not (app / "client" / "left_over.py").exists()
    assert (app / "client" / "cli.py").read_bytes() == bundle.room_files()["client/cli.py"]


def test_the_installed_code_is_accepted() -> None:
    assert bundle.check_fab(make_fab(bundle.room_files())) == "9.9.9"


@pytest.mark.security
@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(changed_byte, "strategies/__init__.py", id="changed byte"),
        pytest.param(lambda files: files.pop("client/shim.py"), "client/shim.py", id="missing"),
        pytest.param(
            lambda files: files.update({"client/extra.py": b"import os"}),
            "client/extra.py",
            id="extra",
        ),
        pytest.param(
            lambda files: files.update({"client.py": b"import os"}), "client.py", id="shadowing"
        ),
        pytest.param(lambda files: files.update({"LICENSE": b""}), "LICENSE", id="licence"),
    ],
)
def test_h26_a_bundle_that_is_not_the_installed_code_is_refused(
    change: Callable[[dict[str, bytes]], object], named: str
) -> None:
    files = bundle.room_files()
    change(files)
    with pytest.raises(BundleError) as caught:
        bundle.check_fab(make_fab(files))
    assert named in caught.value.message
    assert "conscienceai==9.9.9" in caught.value.message


@pytest.mark.security
def test_h26_a_bundle_that_names_another_entrance_is_refused() -> None:
    project = (
        '[project]\nname = "conscienceai"\nversion = "1"\n[tool.flwr.app.components]\n'
        'serverapp = "server.server_app:app"\nclientapp = "os:system"\n'
    )
    with pytest.raises(BundleError, match=r"pyproject\.toml"):
        bundle.check_fab(make_fab(bundle.room_files(), project=project))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a zip",
        make_fab({}, project="not toml ["),
        make_fab({}, project="[project]\nversion = '1'\n"),
        make_fab({}, project="project = 3\n[tool.flwr]\napp = 4\n"),
    ],
)
def test_an_unreadable_bundle_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.check_fab(data)


def test_a_bundle_with_one_name_twice_is_refused() -> None:
    buffer = io.BytesIO(make_fab(bundle.room_files()))
    with (
        zipfile.ZipFile(buffer, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("client/shim.py", "print('evil')")
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.check_fab(buffer.getvalue())


def test_a_zip_bomb_is_refused_unread() -> None:
    bomb = make_fab({"client/bomb.py": b"\0" * (5 * bundle.MAX_BYTES)})
    assert len(bomb) < bundle.MAX_BYTES
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.check_fab(bomb)
