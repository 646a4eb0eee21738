"""``login --check``: whether a registry takes the credentials that there are, and which these are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from enroot_slurm.commands.common import tell
from enroot_slurm.errors import AccessDenied, UsageError, printable

if TYPE_CHECKING:
    import argparse

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.importing.access import Checked
    from enroot_slurm.settings.config import Config

__all__ = ["add_commands"]

_LOGIN = """\
Ask a registry whether it lets you in, with the credentials that an import would use, and say from which line of which
file they are. With REPOSITORY: whether you may read it. Nothing is written, and no secret is printed.

Credentials are lines of the file that enroot uses, $ENROOT_CONFIG_PATH/.credentials: docs/credentials.md.
"""


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    login = commands.add("login", _login, "check the credentials for a registry", description=_LOGIN)
    login.add_argument("--check", action="store_true", help="ask the registry; without it nothing is done")
    login.add_argument("--json", action="store_true", help="print JSON")
    login.add_argument("registry", metavar="REGISTRY[/REPOSITORY]", nargs="?", help="such as nvcr.io/nvidia/pytorch")


def _login(options: argparse.Namespace) -> int:
    from enroot_slurm.importing.access import check_access, parse_registry  # noqa: PLC0415  each command loads what it needs
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config = Config.load()
    reference = parse_registry(options.registry) if options.registry else None
    if not options.check or reference is None:
        raise _usage(config, reference.registry if reference else "")

    def warn(text: str) -> None:
        if not options.quiet:
            tell(f"enroot-slurm: {printable(text, 1000)}")

    checked = check_access(reference, config, warn)
    if options.json:
        print(json.dumps(_fields(checked), indent=2))
    elif not options.quiet and not checked.refused:
        print(_text(checked))
    if checked.refused:
        raise AccessDenied(
            f"{checked.name}: {checked.access.problem}; anyone is let in, so are you, but as nobody",
            hint=f"Correct or remove {checked.access.source or 'that line'}.",
        )
    return 0


def _usage(config: Config, registry: str) -> UsageError:
    file = config.config_path / ".credentials"
    return UsageError(
        "login stores nothing: credentials are lines of a file that you write yourself",
        hint=f"Add 'machine {registry or 'REGISTRY'} login USER password SECRET' to {file}, run chmod 600 {file}, "
        f"and then: enroot-slurm login --check {registry or 'REGISTRY'}",
    )


def _text(checked: Checked) -> str:
    access = checked.access
    if access.used:
        how = f"accepted the login '{printable(access.name, 64)}' of {access.source}"
    elif access.unasked:
        how = f"lets anyone in; it did not ask for the login of {access.unasked}"
    else:
        how = f"lets anyone in; there is no {'site_credentials' if checked.site else 'line'} for it"
    shown = ", and was shown a client certificate" if access.certificate else ""
    return f"{checked.name}: {how}{shown}"


def _fields(checked: Checked) -> dict[str, object]:
    access = checked.access
    return {
        "registry": checked.reference.registry,
        "repository": checked.reference.repository,
        "accepted": not checked.refused,
        "anonymous": not access.used,
        "source": access.source or access.unasked,
        "login": access.name,
        "client_certificate": access.certificate,
        "problem": access.problem,
    }
