"""A large blob from a registry that gives each connection so much: ``python benchmarks/slow_streams.py [--rate MB/s]``.

It prints a table: how long the blob takes this program's client, with one stream and with several, and curl, which
enroot runs once for each layer.  Then the same without a limit, in turns: what parts cost where they are of no use.

The registry is a process of its own.  It sends from memory, and lets each connection wait so that it has no more than
its rate.  What arrives is hashed, written to a file, and dropped.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from enroot_slurm.oci.digest import Digest  # noqa: E402  the path comes first
from enroot_slurm.oci.manifest import Descriptor  # noqa: E402
from enroot_slurm.oci.reference import Reference  # noqa: E402
from enroot_slurm.registry.client import Repository, Transport  # noqa: E402
from enroot_slurm.registry.credentials import Credentials  # noqa: E402

_PIECE = 64 << 10  # bytes between two looks at the clock
_BLOCK = os.urandom(4 << 20)  # the blob is this one again and again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=25.0, help="MB/s of each connection (default: 25)")
    parser.add_argument("--size", type=int, default=1000, help="MB of the blob (default: 1000)")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--repeat", type=int, default=5, help="runs without a limit, of each")
    arguments = parser.parse_args()
    size = arguments.size * 1_000_000
    blob = Descriptor("", Digest("sha256", _digest(size)), size)
    print(f"Load before: {os.getloadavg()[0]:.2f}; {os.cpu_count()} cores; a blob of {arguments.size} MB.\n")
    print("| registry | client | streams | s | MB/s | of rate x streams | CPU s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with _Server(size, arguments.rate * 1e6) as host, tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        _print("curl", 1, arguments.rate, size, _curl(host, blob, Path(directory)))
        for streams in arguments.streams:
            wall, cpu = _fetch(host, blob, Path(directory), streams)
            _print("enroot-slurm", streams, arguments.rate, size, (wall, cpu))
    with _Server(size, 0) as host, tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        costs: dict[int, list[tuple[float, float]]] = {0: [], 4: []}
        for turn in range(arguments.repeat):
            for streams in sorted(costs, reverse=turn % 2 == 1):
                costs[streams].append(_fetch(host, blob, Path(directory), streams))
        for streams, found in costs.items():
            wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
            _print("enroot-slurm", streams, 0, size, (wall, cpu))
        ratios = [four[0] / none[0] for none, four in zip(costs[0], costs[4], strict=True)]
        print(f"\nWithout a limit, the setting 4 takes {statistics.median(ratios):.3f} times as long as 0.")
    return 0


def _print(client: str, streams: int, rate: float, size: int, cost: tuple[float, float]) -> None:
    wall, cpu = cost
    speed = size / wall / 1e6
    share = f"{speed / rate / max(1, streams):.2f}" if rate else ""
    registry = f"{rate:g} MB/s each" if rate else "no limit"
    print(f"| {registry} | {client} | {streams} | {wall:.2f} | {speed:.0f} | {share} | {cpu:.2f} |", flush=True)


def _fetch(host: str, blob: Descriptor, directory: Path, streams: int) -> tuple[float, float]:
    """Seconds, and seconds of processor time, of a fetch by a process of its own."""
    queue: multiprocessing.Queue[tuple[float, float]] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_client, args=(host, blob, directory, streams, queue))
    process.start()
    cost = queue.get()
    process.join()
    return cost


def _client(host: str, blob: Descriptor, directory: Path, streams: int, queue: Any) -> None:
    transport = Transport(allow_http=True, parallel_ranges=streams, proxies_from_env=False)
    reference = Reference.parse(f"docker://{host}#some/image")
    hasher = hashlib.sha256()
    with Repository(reference, Credentials(), transport, warn=print) as repository:
        began, cpu = time.monotonic(), time.process_time()
        with (directory / "blob").open("wb", buffering=0) as file:
            for piece in repository.blob(blob):
                hasher.update(piece)
                file.write(piece)
        queue.put((time.monotonic() - began, time.process_time() - cpu))
    assert hasher.hexdigest() == blob.digest.hex


def _curl(host: str, blob: Descriptor, directory: Path) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    url = f"http://{host}/v2/some/image/blobs/{blob.digest}"
    subprocess.run(["curl", "-sSf", "--noproxy", "*", "-o", directory / "curl", url], check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _digest(size: int) -> str:
    hasher = hashlib.sha256()
    for at in range(0, size, len(_BLOCK)):
        hasher.update(_BLOCK[: size - at])
    return hasher.hexdigest()


class _Server:
    """The registry in a process of its own, for the time of a ``with``; the value is HOST:PORT."""

    def __init__(self, size: int, rate: float) -> None:
        self._server = _Threads(("127.0.0.1", 0), _handler(size, rate))
        self._process = multiprocessing.Process(target=self._server.serve_forever)

    def __enter__(self) -> str:
        self._process.start()
        return f"127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._server.server_close()


class _Threads(ThreadingHTTPServer):
    daemon_threads = True


def _handler(size: int, rate: float) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        due = 0.0  # when this connection may send again

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rate:  # else megabytes are under way before the first wait
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PIECE)

        def do_GET(self) -> None:
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(match[1]) if match else 0
            stop = min(int(match[2]) + 1, size) if match and match[2] else size
            self.send_response(206 if match else 200)
            self.send_header("Content-Length", str(stop - start))
            if match:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.end_headers()
            while start < stop:
                offset = start % len(_BLOCK)
                step = _PIECE if rate else len(_BLOCK)
                piece = memoryview(_BLOCK)[offset : offset + min(step, stop - start)]
                self.wfile.write(piece)
                start += len(piece)
                if rate:
                    now = time.monotonic()
                    self.due = max(self.due, now - 0.05) + len(piece) / rate
                    if self.due > now:
                        time.sleep(self.due - now)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    return Handler


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    raise SystemExit(main())
