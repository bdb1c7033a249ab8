"""What stands behind the onion in `bench_tor`, each a process of its own that is given free ports.

python bench_tor_end.py gateway HOME    the real gateway, but for a probe of `BODY_BYTES` that
                                        may be asked for as often as anybody likes
python bench_tor_end.py bare PORT       HTTP without TLS: sends or takes a body of any size
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY_BYTES = 10_000_000
BLOCK = bytes(65_536)


class Bare(BaseHTTPRequestHandler):
    """`GET /<size>` is answered by so many bytes; the body of a POST is counted."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send as many bytes as the path says."""
        size = int(self.path[1:])
        self._answer(size)
        for start in range(0, size, len(BLOCK)):
            self.wfile.write(BLOCK[: size - start])

    def do_POST(self) -> None:
        """Take a body."""
        left = int(self.headers["content-length"])
        while left and (block := self.rfile.read(min(left, len(BLOCK)))):
            left -= len(block)
        self._answer(0)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()


def main() -> None:
    """Serve until killed."""
    kind, argument = sys.argv[1:]
    if kind == "bare":
        ThreadingHTTPServer(("127.0.0.1", int(argument)), Bare).serve_forever()
        return
    from federation import probe as sizes
    from server import gateway, probe
    from server.config import ServerHome

    sizes._PATHS[sizes.path_of(BODY_BYTES)] = BODY_BYTES
    probe.PROBES_PER_MINUTE = probe.PROBES_AT_ONCE = 10**6
    gateway.serve(ServerHome(Path(argument)))


if __name__ == "__main__":
    main()
