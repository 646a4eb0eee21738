"""The files of a cache, by their names: only files with these names are counted, or ever removed.

    images/RECIPE/PLATFORM/ALGORITHM-HEX.sqsh .json .pin     image, sidecar, pin
    layers/RECIPE/ALGORITHM-HEX.sqsh .json                   layer, sidecar
    blobs/ALGORITHM/HEX   manifests/ALGORITHM/HEX            blob, manifest
    jobs/JOB/NODE.KEY.lease  resolved-HASH.json ...          lease, record
    visitors/JOB~NODE~STEP.KEY.lease                         visit: a lease of somebody who can't write elsewhere
    tags/HASH.json                                           tag: what it led to last
    verdicts/HASH.json                                       verdict: why an image may be used
    hosts/held-HASH.json ...                                 host: what a registry has said of its limits
    failures/HASH.json  locks/NAME.lock  locks/NAME.holder   failure, lock, holder
    rates/HOST~USER                                          rate: how many requests a user has left
    tmp/HEX16.UNIQUE  and, anywhere, .NAME.UNIQUE.tmp        temporary

UNIQUE is ``HOST.JOB.PID.RANDOM`` (`directory.CacheDirectory.unique`).
``enroot`` may keep its own cache in the same directory.
"""

from __future__ import annotations

import re

__all__ = ["is_directory", "kind_of", "locks_of", "maker_of"]

_ID = r"(?:sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})"
_RECIPE = r"[0-9a-f]{16}"
_PLATFORM = r"[a-z0-9_]+(?:-[a-z0-9_.]+){1,2}"
_JOB = r"[0-9]{1,19}(?:\.[0-9]{1,9})?"
_HASHED = r"(?:sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})"
_NODE = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_UNIQUE = r"[^/]*\.[0-9]{1,10}\.[0-9a-f]{8}"

# As texts: `re` keeps what it has compiled, and a hook that asks for one kind need not wait for all of them.
_KINDS = {
    "temporary": rf"tmp/[0-9a-f]{{16}}\.{_UNIQUE}|(?:[^/]+/)*\.[^/]+\.{_UNIQUE}\.tmp",
    "image": rf"images/{_RECIPE}/{_PLATFORM}/{_ID}\.sqsh",
    "image sidecar": rf"images/{_RECIPE}/{_PLATFORM}/{_ID}\.json",
    "pin": rf"images/{_RECIPE}/{_PLATFORM}/{_ID}\.pin",
    "layer": rf"layers/{_RECIPE}/{_ID}\.sqsh",
    "layer sidecar": rf"layers/{_RECIPE}/{_ID}\.json",
    "blob": rf"blobs/{_HASHED}",
    "manifest": rf"manifests/{_HASHED}",
    "lease": rf"jobs/{_JOB}/{_NODE}(?:~{_NODE})?\.[0-9a-f]{{32}}\.lease",
    "visit": rf"visitors/{_JOB}~{_NODE}(?:~{_NODE})?\.[0-9a-f]{{32}}\.lease",
    "record": rf"jobs/{_JOB}/[a-z]+(?:-[0-9a-f]{{32}})?\.json",
    "tag": r"tags/[0-9a-f]{32}\.json",
    "verdict": r"verdicts/[0-9a-f]{32}\.json",
    "failure": r"failures/[0-9a-f]{32}\.json",
    "rate": rf"rates/{_NODE}~{_NODE}",
    "host": r"hosts/(?:held|probe|down|left)-[0-9a-f]{32}\.json",
    "holder": r"locks/[a-z0-9][A-Za-z0-9_.-]*\.holder",
    "lock": r"locks/[a-z0-9][A-Za-z0-9_.-]*\.lock",
}
_DIRECTORIES = (
    rf"images(?:/{_RECIPE}(?:/{_PLATFORM})?)?|layers(?:/{_RECIPE})?|(?:blobs|manifests)(?:/(?:sha256|sha512))?"
    rf"|jobs(?:/{_JOB})?|visitors|tags|verdicts|failures|rates|hosts|locks|tmp"
)
_MAKER = r".*\.([0-9]{1,10})\.[0-9a-f]{8}(?:\.tmp)?"
_LOCKS = (
    # What is locked while a file of this name is written; temporaries have only the first digits of a digest.
    (r"images/([^/]+)/([^/]+)/\.?(?:sha256-|sha512-)?([0-9a-f]{12,128})(?![0-9a-f]).*", r"image-\1-\2-\3"),
    (r"layers/([^/]+)/\.?(?:sha256-|sha512-)?([0-9a-f]{12,128})(?![0-9a-f]).*", r"layer-\1-\2"),
    (r"blobs/(sha256|sha512)/([0-9a-f]+)", r"blob-\1-\2"),
    (r"tmp/([0-9a-f]{16})\..*", r"blob-sha256-\1"),
    (r"tmp/([0-9a-f]{16})\..*", r"blob-sha512-\1"),
    (r"locks/(.*)\.holder", r"\1"),
)


def kind_of(path: str) -> str | None:
    """The kind of the file *path*, relative to the cache, by its name; None: it is not ours."""
    # By the directory first: a large cache has hundreds of thousands of names. Temporaries are anywhere.
    first = f"{path.partition('/')[0]}/"
    for kind, pattern in _KINDS.items():
        if (kind == "temporary" or pattern.startswith(first)) and re.fullmatch(pattern, path, re.ASCII):
            return kind
    return None


def is_directory(path: str) -> bool:
    """Whether a directory *path*, relative to the cache, may have files of the cache in it."""
    return re.fullmatch(_DIRECTORIES, path, re.ASCII) is not None


def locks_of(path: str) -> list[str]:
    """The names, or how they begin, of the locks one of which is held by whoever writes the file *path*."""
    return [match.expand(lock) for pattern, lock in _LOCKS if (match := re.fullmatch(pattern, path))]


def maker_of(name: str, host: str) -> int | None:
    """The number of the process on *host* that has made the temporary file *name*; None: it was another host's."""
    match = re.fullmatch(_MAKER, name, re.ASCII)
    return int(match[1]) if match and f".{host}." in name else None
