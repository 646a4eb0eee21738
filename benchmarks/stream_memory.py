"""Memory of an import over slow streams: ``python benchmarks/stream_memory.py [--rate MB/s ...] [--streams N ...]``.

The image `full` comes from a registry on this machine, through a relay that gives each connection so much.  Printed are
the wall time and the largest memory of the program, with N streams for a large layer (0: one for each layer), and the
ratio to the first row of that rate.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from image import build  # noqa: E402  the path comes first
from run import WORK, push  # noqa: E402
from support.registry import Registry  # noqa: E402

_PIECE = 64 << 10


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float) -> None:
    """Pass on what *reader* gives, *rate* bytes a second at most; 0: any."""
    began, sent = time.monotonic(), 0
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
            now = time.monotonic()
            if now - began > 1:  # a connection that was idle must not catch up
                began, sent = now, 0
            sent += len(piece)
            if rate:
                await asyncio.sleep(max(0.0, sent / rate - (now - began)))
    writer.close()


def _relay(listener: socket.socket, port: int, rate: float) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pass(reader, to_writer, 0), _pass(to_reader, writer, rate))

    async def serve() -> None:
        async with await asyncio.start_server(accept, sock=listener) as server:
            await server.serve_forever()

    asyncio.run(serve())


def _measure(uri: str, run: Path, streams: int) -> tuple[float, float]:
    """Seconds, and MB of memory."""
    shutil.rmtree(run, ignore_errors=True)
    environment = os.environ | {
        "ENROOT_ALLOW_HTTP": "y",
        "ENROOT_CACHE_PATH": str(run / "cache"),
        "ENROOT_CONFIG_PATH": str(run / "config"),
        "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 1 -noD",
        "ENROOT_SLURM_PARALLEL_RANGES": str(streams),
    }
    words = [sys.executable, "-m", "enroot_slurm", "get", "--quiet", uri]
    began = time.perf_counter()
    process = os.posix_spawn(
        sys.executable, words, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit("the import failed")
    return time.perf_counter() - began, used.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--rate", type=float, nargs="*", default=[25, 100], help="MB/s of each connection")
    parser.add_argument("--streams", type=int, nargs="*", default=[0, 4, 8])
    parser.add_argument("--work", type=Path, default=WORK, help="by default %(default)s")
    arguments = parser.parse_args()
    image, run = build("full", arguments.work), arguments.work / "stream"
    print(f"Load before: {os.getloadavg()[0]:.2f}; {os.cpu_count()} cores.\n")
    print("| MB/s each | streams of a large layer | s | memory MB | ratio |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    with Registry(arguments.work / "memory-http", storage=arguments.work / "registry") as registry:
        push(image, registry)
        for rate in arguments.rate:
            listener = socket.create_server(("127.0.0.1", 0))
            target = int(registry.host.rpartition(":")[2])
            relay = multiprocessing.Process(target=_relay, args=(listener, target, rate * 1e6), daemon=True)
            relay.start()
            uri, first = f"docker://127.0.0.1:{listener.getsockname()[1]}#bench/{image.name}:{image.tag}", 0.0
            for streams in arguments.streams:
                seconds, memory = _measure(uri, run, streams)
                first = first or memory
                print(f"| {rate:g} | {streams} | {seconds:.1f} | {memory:.0f} | {memory / first:.2f} |", flush=True)
            relay.terminate()
    shutil.rmtree(run)


if __name__ == "__main__":
    main()
