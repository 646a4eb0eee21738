"""A site: a cluster with the product's settings and a shared cache, one that tests can empty and change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from support.command import serve
from support.fault_registry import FaultRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from support.images import Image
    from support.installation import Installation
    from support.slurm import Cluster, User

__all__ = ["RUN", "Site", "Slow"]

RUN = "/run/enroot-slurm"


class Slow(NamedTuple):
    """A registry that stops in the middle of a blob until *go* is set, and the URI of an image in it."""

    registry: FaultRegistry
    uri: str
    go: threading.Event


class Site:
    """Settings in ``etc/config.yaml`` (mount `etc` at /etc/enroot-slurm), and a cache in `cache`.

    *settings* are added to those of the tests.
    """

    def __init__(self, installation: Installation, cache_user: User, *registries: str, **settings: Any) -> None:
        self.installation = installation
        self.cache_user = cache_user
        self.registries = list(registries)
        self._settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="es-site-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        self.etc = self.directory / "etc"
        self.etc.mkdir()
        self.cache = self.directory
        self.cluster: Cluster
        self.new_cache()

    def start(
        self,
        start_cluster: Callable[..., Cluster],
        *,
        conf: Mapping[str, str] | None = None,
        shared: Mapping[str, Path] | None = None,
        private: tuple[str, ...] = (),
        **options: Any,
    ) -> Self:
        """Start the cluster, whose nodes run the prolog and the epilog; *options* are `Cluster`'s."""
        self.cluster = start_cluster(
            conf={**self.installation.hooks, **(conf or {})},
            private=[RUN, *private],
            shared={"/etc/enroot-slurm": self.etc, **(shared or {})},
            **options,
        )
        return self

    @contextlib.contextmanager
    def slow(self, image: Image, **changes: Any) -> Iterator[Slow]:
        """*image* in a registry that is `Slow`; with `configure`'s *changes*."""
        go = threading.Event()
        with FaultRegistry() as registry:
            uri = serve(registry, image)
            registry.fault("/blobs/", stall=go, after=1000)
            self.configure(insecure_registries=[registry.host], **changes)
            yield Slow(registry, uri, go)
            go.set()

    def configure(self, **changes: Any) -> None:
        """Write the settings: those of the tests with *changes*; None takes one away."""
        settings = {
            "shared_cache": str(self.cache),
            "cache_user": self.cache_user.name,
            "insecure_registries": self.registries,
            "squash_options": "-comp zstd -Xcompression-level 1",
            "prolog_deadline": 60,
            "site_failure_wait": 0,
            "transfer_retries": 0,
            **self._settings,
            **changes,
        }
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in settings.items() if value is not None]
        temporary = self.etc / "new"
        temporary.write_text("".join(lines))
        temporary.rename(self.etc / "config.yaml")

    def new_cache(self) -> None:
        """Use an empty cache, and the tests' settings again."""
        self.cache = Path(tempfile.mkdtemp(prefix="cache-", dir=self.directory))
        self.cache.chmod(0o755)
        os.chown(self.cache, self.cache_user.uid, self.cache_user.gid)
        self.configure()

    def leases(self) -> list[Path]:
        """The leases of the shared cache."""
        return list(self.cache.glob("jobs/*/*.lease"))

    def check_clean(self, *, records: bool = True) -> None:
        """No node is drained, no process runs, no temporary file and (with an epilog) no lease and record is left."""
        reasons = self.cluster.sinfo_reasons()
        self.cluster.heal()
        assert not reasons
        deadline = time.monotonic() + 15
        while left := self.left(records=records):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)

    def left(self, *, records: bool = True) -> list[str]:
        """What should not be there when no job is."""
        left = [str(f) for f in self.cache.rglob("*.tmp")] + list(self.cluster.processes().values())
        if records:
            left += map(str, self.leases())
            paths = [self.cluster.node_path(node, RUN) for node in self.cluster.nodes]
            left += [str(f) for path in paths if path.exists() for f in path.glob("[0-9.]*")]
        return left

    def remove(self) -> None:
        shutil.rmtree(self.directory)
