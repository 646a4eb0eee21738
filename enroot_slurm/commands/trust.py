"""``verify`` and ``show``: whether an image may be used here, and what is attached to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.commands.common import print_table, progress

if TYPE_CHECKING:
    import argparse

    from enroot_slurm.commands.common import Commands

__all__ = ["add_commands"]

_VERIFY = """\
Say whether the image URI may be used here: all policies and verifiers of the settings are asked (docs/trust.md).
With --key: whether it is signed by that key, as cosign signs, for its repository. No layer is fetched. The exit status
is 0 for yes and 4 for no.
"""

_SHOW = """\
Show what is attached to the image URI: what BuildKit, cosign and others have put beside it in the registry. Whether a
signature is good is not looked at ('verify' does that for signatures of the image), nor whether what is said is true.
"""


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    verify = commands.add(
        "verify", _verify, "say whether an image may be used here", parents=[commands.image], description=_VERIFY
    )
    verify.add_argument("--key", metavar="FILE", type=Path, help="a public key (PEM), instead of the settings")
    verify.add_argument("--json", action="store_true", help="print the verdict as JSON")
    show = commands.add("show", _show, "show what is attached to an image", parents=[commands.image], description=_SHOW)
    what = show.add_mutually_exclusive_group(required=True)
    what.add_argument("--attestations", action="store_true", help="list all: kind, size, digest, signed or not")
    what.add_argument("--sbom", action="store_true", help="print the bill of materials (SPDX or CycloneDX, JSON)")

    for command in (verify, show):
        command.add_argument(
            "--authfile", metavar="FILE", type=Path, help="read logins from this file of docker or podman only"
        )


def _verify(options: argparse.Namespace) -> int:
    from enroot_slurm.importing.verification import verify_image  # noqa: PLC0415  each command loads what it needs
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config = Config.load(overrides={"auth_file": options.authfile})
    with progress(options) as told:
        verdict = verify_image(options.uri, options.arch, config, told, options.key)
    if options.json:
        print(bytes(verdict).decode(), end="")
        return 0
    print(f"{verdict.image} may be used")
    print(f"  manifest: {verdict.digest}")
    for who in verdict.by:
        print(f"  approved by: {who}")
    for file in verdict.files:
        print(f"  asked by: {file}")
    return 0


def _show(options: argparse.Namespace) -> int:
    from enroot_slurm.errors import printable  # noqa: PLC0415
    from enroot_slurm.importing.verification import attachments_of, sbom_of  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config = Config.load(overrides={"auth_file": options.authfile})
    with progress(options) as told:
        if options.sbom:
            sbom = sbom_of(options.uri, options.arch, config, told)
        else:
            found = attachments_of(options.uri, options.arch, config, told)
    if options.sbom:
        sys.stdout.buffer.write(sbom.rstrip() + b"\n")
        return 0
    rows = [("KIND", "SIGNED", "SIZE", "DIGEST")]
    rows += [(printable(a.kind, 80), "yes" if a.is_signed else "no", str(a.size), str(a.digest)) for a in found]
    print_table(rows)
    return 0
