"""Where the tor program lies on this machine. None is bundled: it would have no way of updates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from federation.errors import TorError
from federation.language import _

LIST_S = 20.0
_HOMEBREW = ("/opt/homebrew/bin", "/usr/local/bin")
_MAC_BUNDLE = "Applications/Tor Browser.app/Contents/MacOS/Tor/tor"
_WINDOWS_ROOTS = ("PROGRAMFILES", "LOCALAPPDATA", "PROGRAMFILES(X86)")
_WINDOWS_BUNDLE = "Tor Browser/Browser/TorBrowser/Tor/tor.exe"


def find_program(program: str, usual: Sequence[Path] | None = None) -> Path:
    """Find the tor program.

    Args:
        program: its path, from the settings; "" looks on the PATH, then in the usual places.
        usual: those places; None: of this system.

    Raises:
        TorError: there is none; the hint says how to get one.
    """
    if program:
        if (found := shutil.which(str(Path(program).expanduser()))) is None:
            raise TorError(
                _("The tor program that the settings name is not there: {path}").format(
                    path=program
                ),
                hint=_("Correct tor.program in the settings, or leave it empty."),
            )
        return Path(found).absolute()
    places = places_of(sys.platform, os.environ) if usual is None else usual
    for candidate in ("tor", *places):
        if (found := shutil.which(str(candidate))) is not None:
            return Path(found).absolute()
    raise TorError(_("There is no tor program on this machine."), hint=install_hint(sys.platform))


def places_of(platform: str, environment: Mapping[str, str]) -> list[Path]:
    """List where a tor may lie that is not on the PATH.

    Args:
        platform: as `sys.platform`.
        environment: names the user's folders.
    """
    return [Path(place) for place in _places(platform, environment)]


def install_hint(platform: str) -> str:
    """Say how to get a tor program."""
    if platform == "darwin":
        return _("Install it: brew install tor. Or start Tor Browser and leave it open.")
    if platform == "win32":
        return _("Install Tor Browser, or unpack the Tor Expert Bundle and set tor.program.")
    return _("Install it, for example: sudo apt install tor. Or start Tor Browser.")


def has_pow(program: Path) -> bool:
    """Whether this tor was built with proof of work; one that was not refuses its options."""
    try:
        said = subprocess.run(  # noqa: S603 - the tor program, no shell
            [program, "--list-modules"], capture_output=True, timeout=LIST_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as err:
        raise TorError(f"{program} cannot be run ({type(err).__name__})") from err
    return b"pow: yes" in said


def _places(platform: str, environment: Mapping[str, str]) -> Iterator[str]:
    if platform == "win32":
        profile = environment.get("USERPROFILE", "")
        roots = [f"{profile}/Desktop", f"{profile}/OneDrive/Desktop"] if profile else []
        roots += [environment[name] for name in _WINDOWS_ROOTS if environment.get(name)]
        for root in roots:
            yield f"{root}/{_WINDOWS_BUNDLE}"
            yield f"{root}/Tor/tor.exe"
    elif platform == "darwin":
        for folder in _HOMEBREW:
            yield f"{folder}/tor"
        yield f"/{_MAC_BUNDLE}"
        if home := environment.get("HOME"):
            yield f"{home}/{_MAC_BUNDLE}"
    else:
        for folder in ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"):
            yield f"{folder}/tor"
