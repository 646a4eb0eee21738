#!/usr/bin/env python3
"""Import several images into a directory, and leave out those that are there already.

    python examples/import_many.py /shared/images docker://ubuntu:24.04 docker://nvcr.io/nvidia/cuda:12.4.1-base-ubuntu22.04

A later run imports only what is new: a file's name holds the digest of what its tag meant then.
"""

from __future__ import annotations

import sys
from pathlib import Path

from enroot_slurm import Config, EnrootSlurmError, import_image, resolve_digest


def main() -> int:
    directory, uris = Path(sys.argv[1]), sys.argv[2:]
    directory.mkdir(parents=True, exist_ok=True)
    config = Config.load()
    failed = 0
    for uri in uris:
        try:
            digest = resolve_digest(uri, config=config)
            file = directory / f"{digest.hex}.sqsh"
            if file.exists():
                print(f"{uri}: {file} is there")
                continue
            # By digest, so that the file is what its name says, even if the tag moves meanwhile.
            pinned = uri if "@sha" in uri else f"{uri}@{digest}"
            result = import_image(pinned, output=file, config=config)
            print(f"{uri}: {result.path}, {result.size >> 20} MiB, {result.layers_reused} layers from the cache")
        except EnrootSlurmError as error:
            failed = error.exit_code
            print(f"{uri}: {error}\n  {error.hint}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
