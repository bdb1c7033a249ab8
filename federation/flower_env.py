"""The environment every Flower process of ours runs in: silent, offline, small chunks.

Read by flwr at import, so it must be set before the process starts; children inherit it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CHUNK_BYTES = 262_144  # 512 KiB and more livelock on slow links; many small arrays cost round trips
# glibc: every pull of a reply runs in new threads, and what their own heaps held is not given back.
ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
PROXY_VARIABLES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def flower_environment(
    inherited: Mapping[str, str], flwr_home: Path, *, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment for one Flower child.

    Args:
        inherited: the caller's environment; proxy variables in it are dropped.
        flwr_home: Flower's own folder, ours alone.
        extra: variables added last.
    """
    dropped = {name for name in inherited if name.upper() in PROXY_VARIABLES}
    environment = {k: v for k, v in inherited.items() if k not in dropped}
    environment |= {
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(CHUNK_BYTES),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of many small models starve one another
    }
    return environment | dict(extra or {})
