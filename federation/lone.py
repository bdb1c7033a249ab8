"""One module of a package without the package around it, where importing that costs too much."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def lone_command(package: str, name: str) -> Any:  # noqa: ANN401 - a module of a library
    """Import module `name` of a package whose own imports are left out.

    Flower's packages of commands import every command, and with them a web server, a database and
    its migrations: a third of what a process imports that needs one command, and 35 MB.

    Args:
        package: full name of a package inside another; used as it is if it is imported already.
        name: a module in it that needs nothing of the package itself.

    Raises:
        ImportError: there is no such module.
    """
    if package not in sys.modules:
        parent, _dot, folder = package.rpartition(".")
        spec = importlib.util.find_spec(parent)
        places = (spec.submodule_search_locations or ()) if spec else ()
        bare = ModuleType(package)
        bare.__path__ = [str(Path(place) / folder) for place in places]
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{name}")
