"""Bytes each node has sent and received through the gateway, flushed to the node book."""

from __future__ import annotations

from server.nodes import Nodes

FLUSH_S = 1.0


class Traffic:
    """Counts in memory, added to the node book by `flush`. Bodies only, not headers or TLS."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._waiting: dict[str, tuple[int, int]] = {}

    def add(self, key: str, *, up: int = 0, down: int = 0) -> None:
        """Count bytes of the node whose `flwr-public-key` is `key`."""
        had_up, had_down = self._waiting.get(key, (0, 0))
        self._waiting[key] = (had_up + up, had_down + down)

    def today(self, key: str) -> int:
        """Bytes of that node on this day (UTC), both ways."""
        return self._nodes.bytes_today(key) + sum(self._waiting.get(key, ()))

    def flush(self) -> None:
        """Write what has come since the last flush."""
        waiting, self._waiting = self._waiting, {}
        if waiting:
            self._nodes.add_traffic(waiting)
