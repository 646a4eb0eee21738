"""Fixtures for the registry client's tests."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from support.fault_registry import FaultRegistry

from enroot_slurm.oci.reference import Reference
from enroot_slurm.registry.client import Repository, Transport
from enroot_slurm.registry.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = Transport(connect_timeout=5, stall_timeout=5, retries=3, backoff=0.001, proxies_from_env=False)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """The file with the authority's certificate."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def faulty() -> Iterator[Callable[..., FaultRegistry]]:
    """A function that starts a `FaultRegistry`, which ends with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(FaultRegistry(**options))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Credentials]:
    """A function that makes credentials of a file's text."""

    def load(text: str, *, run_commands: bool = False, **options: Any) -> Credentials:
        path = tmp_path / ".credentials"
        path.write_bytes(text.encode())
        path.chmod(0o600)
        return Credentials.load(path, run_commands=run_commands, **options)

    return load


@pytest.fixture
def warnings() -> list[str]:
    """What `open_repository`'s clients have warned of."""
    return []


@pytest.fixture
def open_repository(warnings: list[str]) -> Iterator[Callable[..., Repository]]:
    """A function that makes a client for ``HOST#NAME[:TAG]``; http unless the option *allow_http* says otherwise."""
    with ExitStack() as stack:

        def make(name: str, credentials: Credentials | None = None, **options: Any) -> Repository:
            transport = QUICK._replace(**{"allow_http": True, **options})
            return stack.enter_context(
                Repository(
                    Reference.parse(f"docker://{name}"), credentials or Credentials(), transport, warn=warnings.append
                )
            )

        yield make
