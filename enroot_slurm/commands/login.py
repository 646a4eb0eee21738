"""``login`` and ``logout``: the user's own lines of logins, and whether a registry takes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.commands.common import tell
from enroot_slurm.errors import AccessDenied, NotFound, UsageError, printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.importing.access import Checked
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.registry.secret import Secret
    from enroot_slurm.settings.config import Config

__all__ = ["add_commands"]

_LOGIN = """\
Try a login at a registry, and put it into $ENROOT_CONFIG_PATH/.credentials, the file that enroot uses, too. Without
--password-stdin the password is asked for. The files of docker and podman, which are read as well, are never written.

With --check: ask the registry whether it lets you in, with the login that an import would use, and say from which file
it is. With REPOSITORY: whether you may read it. Nothing is written. No secret is ever printed: docs/credentials.md.
"""
_MAX_PASSWORD = 64 << 10


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    login = commands.add("login", _login, "store a login for a registry, or check those there are", description=_LOGIN)
    login.add_argument("-u", "--username", metavar="USER", default="", help="the login; USER@REGISTRY does as well")
    login.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    login.add_argument("--check", action="store_true", help="only ask the registry, with the logins there are")
    login.add_argument("--authfile", metavar="FILE", type=Path, help="with --check: read this file of docker or podman")
    login.add_argument("--json", action="store_true", help="with --check: print JSON")
    login.add_argument("registry", metavar="REGISTRY[/REPOSITORY]", help="such as nvcr.io/nvidia/pytorch")
    logout = commands.add("logout", _logout, "remove logins for a registry from .credentials")
    logout.add_argument("-u", "--username", metavar="USER", default="", help="only this login")
    logout.add_argument("registry", metavar="REGISTRY", help="such as nvcr.io")


def _login(options: argparse.Namespace) -> int:
    from enroot_slurm.settings.config import Config  # noqa: PLC0415  each command loads what it needs

    reference = _reference(options)
    if options.check:
        return _check(options, reference, Config.load(overrides={"auth_file": options.authfile}))
    if options.authfile or options.json:
        raise UsageError("--authfile and --json go with --check: no file but .credentials is ever written")
    from enroot_slurm.importing.access import try_login  # noqa: PLC0415
    from enroot_slurm.importing.login_lines import put_line  # noqa: PLC0415
    from enroot_slurm.importing.logins import netrc_path  # noqa: PLC0415

    config = Config.load()
    file = netrc_path(config)
    login, secret = _ask(reference, stdin=options.password_stdin)
    checked = try_login(reference._replace(user=login), login, secret, config, _warn(options))
    if not checked.access.used:
        tell(f"enroot-slurm: {checked.name} allows anonymous access, and did not check the login")
    replaced = put_line(file, reference.registry, login, secret)
    if "netrc" not in config.credential_sources:
        tell("enroot-slurm: the setting credential_sources leaves netrc out: imports do not read that file")
    if not options.quiet:
        what = "replaced" if replaced else "added"
        print(f"{reference.registry}: {what} the login '{printable(login, 64)}' in {file}")
    return 0


def _logout(options: argparse.Namespace) -> int:
    from enroot_slurm.importing.login_lines import take_lines  # noqa: PLC0415
    from enroot_slurm.importing.logins import credentials_of, netrc_path  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config, reference = Config.load(), _reference(options)
    file = netrc_path(config)
    count = take_lines(file, reference.registry, reference.user)
    left = credentials_of("", config, lambda _: None, public=False).place(reference.registry, reference.user)
    if not count:
        raise NotFound(
            f"{file} has no login for {reference.registry}",
            hint=f"There is one in {left}; that is not this command's to change." if left else "",
        )
    if not options.quiet:
        print(f"{reference.registry}: removed {count} login{'s' if count > 1 else ''} from {file}")
    if left:
        tell(f"enroot-slurm: {left} still has a login for it")
    return 0


def _reference(options: argparse.Namespace) -> Reference:
    from enroot_slurm.importing.access import parse_registry  # noqa: PLC0415

    reference = parse_registry(options.registry)
    if options.username and reference.user not in {"", options.username}:
        raise UsageError(f"two logins: {printable(reference.user)} and {printable(options.username)}")
    return reference._replace(user=options.username or reference.user)


def _ask(reference: Reference, *, stdin: bool) -> tuple[str, Secret]:
    """The login and password, from the arguments, standard input or the terminal."""
    import getpass  # noqa: PLC0415

    from enroot_slurm.registry.secret import Secret  # noqa: PLC0415

    if stdin:
        if not reference.user:
            raise UsageError("--password-stdin needs a login", hint="Name it with -u USER.")
        content = sys.stdin.buffer.read(_MAX_PASSWORD)
        password = content.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
        return reference.user, _checked(password, Secret)
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the password", hint="Use --password-stdin.")
    login = reference.user
    while not login:
        tell(f"Login for {reference.registry}:")
        login = input().strip()
    return login, _checked(getpass.getpass(f"Password or token of {printable(login, 64)}: "), Secret)


def _checked(password: str, secret: type[Secret]) -> Secret:
    if not password or any(c in password for c in "\0\r\n"):
        raise UsageError("the password is empty" if not password else "the password has more than one line")
    return secret(password)


def _warn(options: argparse.Namespace) -> Callable[[str], None]:
    def warn(text: str) -> None:
        if not options.quiet:
            tell(f"enroot-slurm: {printable(text, 1000)}")

    return warn


def _check(options: argparse.Namespace, reference: Reference, config: Config) -> int:
    from enroot_slurm.importing.access import check_access  # noqa: PLC0415

    checked = check_access(reference, config, _warn(options))
    if options.json:
        print(json.dumps(_fields(checked), indent=2))
    elif not options.quiet and not checked.refused:
        print(_text(checked))
        if checked.left:
            print(f"{checked.name}: {checked.left}")
    if checked.doubt and not options.quiet:
        tell(f"enroot-slurm: {checked.doubt}")
    if checked.refused:
        raise AccessDenied(
            f"{checked.name}: {checked.access.problem}; "
            "the registry allows anonymous access, so this login was not used",
            hint=f"Correct or remove {checked.access.source or 'that line'}.",
        )
    return 0


def _text(checked: Checked) -> str:
    access = checked.access
    if access.used:
        how = f"accepted the login '{printable(access.name, 64)}' of {access.source}"
    elif access.unasked:
        how = f"lets anyone in; it did not ask for the login of {access.unasked}"
    else:
        how = f"lets anyone in; there is no {'login in site_credentials' if checked.site else 'login'} for it"
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
        "limit": checked.left,
    }
