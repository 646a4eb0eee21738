"""How fast decoders are on real layers: ``python benchmarks/decoders.py FILE.gz ...``; isal is ``pip install isal``.

One thread decodes each file piece by piece, as an import does, and drops the result.  Processor time counts, the best
of three turns, against zlib-ng, which imports use.
"""

from __future__ import annotations

import argparse
import importlib
import time
import zlib
from pathlib import Path
from typing import Any

_READ = 1 << 18
_PIECE = 1 << 20
_TURNS = 3
_DECODERS = {"zlib-ng": "zlib_ng.zlib_ng", "isal": "isal.isal_zlib", "zlib": "zlib"}


def decode(module: Any, content: bytes) -> int:
    """Decode *content*, all members of a gzip file; the bytes of the result."""
    inflater, size = module.decompressobj(16 + zlib.MAX_WBITS), 0
    for start in range(0, len(content), _READ):
        data = content[start : start + _READ]
        while data:
            size += len(inflater.decompress(data, _PIECE))
            data = inflater.unconsumed_tail
            if inflater.eof:
                data, inflater = inflater.unused_data, module.decompressobj(16 + zlib.MAX_WBITS)
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.gz")
    modules = {}
    for name, module in _DECODERS.items():
        try:
            modules[name] = importlib.import_module(module)
        except ImportError:
            print(f"{name} is not installed, and left out")
    print(f"| layer | MB | {' | '.join(f'{name}, MB/s | ratio' for name in modules)} |")
    print("| --- " + "| ---: " * (1 + 2 * len(modules)) + "|")
    for path in parser.parse_args().files:
        content = path.read_bytes()
        seconds = dict.fromkeys(modules, float("inf"))
        for _ in range(_TURNS):
            for name, module in modules.items():
                began = time.process_time()
                size = decode(module, content)
                seconds[name] = min(seconds[name], time.process_time() - began)
        first = seconds["zlib-ng"]
        cells = [f"{size / each / 1e6:.0f} | {first / each:.2f}" for each in seconds.values()]
        print(f"| {path.name} | {size / 1e6:.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
