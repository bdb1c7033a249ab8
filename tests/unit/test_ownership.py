"""The guard against other owners of our package names: quiet for us, clear about strangers."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import RoomError
from federation.ownership import ROOMS, require_own_rooms


def make_rooms(folder: Path, rooms: tuple[str, ...] = ROOMS) -> Path:
    """Lay package folders of these names into `folder`; returns it resolved."""
    for room in rooms:
        (folder / room).mkdir(parents=True)
        (folder / room / "__init__.py").touch()
    return folder.resolve()


def install(folder: Path, distribution: str, *files: str) -> None:
    """Write the metadata an installer leaves for `distribution`, owning `files`."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = [f"{info.name}/METADATA,sha256=x,1", *(f"{name},sha256=x,1" for name in files)]
    (info / "RECORD").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_this_environment_is_accepted() -> None:
    require_own_rooms()


def test_our_own_files_in_site_packages_are_accepted(tmp_path: Path) -> None:
    site = make_rooms(tmp_path / "site")
    install(site, "conscienceai", *(f"{room}/__init__.py" for room in ROOMS))
    install(site, "flwr", "flwr/__init__.py", "flwr/client/__init__.py")
    require_own_rooms([str(site)], root=site)


def test_another_owner_of_our_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    site = make_rooms(tmp_path / "site")
    install(site, "conscienceai", *(f"{room}/__init__.py" for room in ROOMS))
    install(site, "Some_Server.kit", "server/routes.py")
    with pytest.raises(RoomError, match=r"'server'.*'some-server-kit'") as caught:
        require_own_rooms([str(site)], root=site)
    assert "pipx install conscienceai" in caught.value.hint


@pytest.mark.parametrize("ours_first", [True, False])
def test_another_owner_in_another_folder_is_refused_in_any_order(
    tmp_path: Path, *, ours_first: bool
) -> None:
    ours = make_rooms(tmp_path / "checkout")
    site = make_rooms(tmp_path / "site", ("client",))
    install(site, "webclient", "client/__init__.py")
    search = [str(ours), str(site)] if ours_first else [str(site), str(ours)]
    with pytest.raises(RoomError, match="'webclient'"):
        require_own_rooms(search, root=ours)


def test_a_single_module_of_our_name_counts_too(tmp_path: Path) -> None:
    ours = make_rooms(tmp_path / "checkout")
    site = tmp_path / "site"
    install(site, "oldrag", "rag.py")
    (site / "rag.py").touch()
    with pytest.raises(RoomError, match=r"'rag'.*'oldrag'"):
        require_own_rooms([str(ours), str(site)], root=ours)


def test_an_uninstalled_package_is_refused_only_where_it_hides_ours(tmp_path: Path) -> None:
    ours = make_rooms(tmp_path / "checkout")
    stray = make_rooms(tmp_path / "project", ("server",))
    require_own_rooms([str(ours), str(stray)], root=ours)
    with pytest.raises(RoomError, match="'server'"):
        require_own_rooms([str(stray), str(ours)], root=ours)


def test_another_copy_of_the_project_is_accepted(tmp_path: Path) -> None:
    ours = make_rooms(tmp_path / "installed")
    bundle = make_rooms(tmp_path / "bundle")
    require_own_rooms([str(bundle), str(ours)], root=ours)


def test_a_plain_folder_of_our_name_is_no_package(tmp_path: Path) -> None:
    ours = make_rooms(tmp_path / "checkout")
    (tmp_path / "work" / "server").mkdir(parents=True)
    require_own_rooms([str(tmp_path / "work"), str(ours)], root=ours)
