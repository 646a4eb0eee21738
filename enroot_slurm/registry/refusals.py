"""What a registry's refusals mean, in words that say what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from enroot_slurm.errors import AccessDenied, EnrootSlurmError, NetworkError, NotFound, RateLimited, printable
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry.retry import RETRIED, Passing, TooMany, retry_after

if TYPE_CHECKING:
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.registry.auth import Login
    from enroot_slurm.registry.transport import Response

__all__ = ["passing", "refusal"]

_FILE = "$ENROOT_CONFIG_PATH/.credentials"


def refusal(response: Response, reference: Reference, blob: str, login: Login, file: str) -> EnrootSlurmError:
    """The error for an answer that is not what was asked for: *reference*'s manifest, or the *blob* called so.

    *file* is the credentials file's name, if there is one.
    """
    code, text = _first_error(response.error_body())
    said = f" ({text})" if text else ""
    if response.status in RETRIED:
        return passing(response, reference.registry)
    if response.status in {401, 403}:
        return _denied(reference, login, file or _FILE, said)
    if response.status == 404:
        return _missing(reference, blob, code, said)
    if b"HTTPS server" in response.error_body()[:1000]:
        return NetworkError(
            f"{reference.registry} speaks https, but was asked by http",
            hint="Unset ENROOT_ALLOW_HTTP, or take it out of insecure_registries.",
        )
    return NetworkError(f"{reference.registry} answers {response.status}{said}")


def passing(response: Response, host: str) -> NetworkError:
    """The error for an answer of *host* whose status is one of `RETRIED`."""
    _, text = _first_error(response.error_body())
    said = f" ({text})" if text else ""
    delay = retry_after(response.headers)
    if response.status != 429:
        return Passing(f"{host} answers {response.status}{said}", delay=delay)
    limit = printable(response.headers.get("ratelimit-limit", ""), 40)
    message = f"{host}: too many requests" + (f", the limit is {limit}" if limit else "") + said
    hint = "Requests without login are counted by address: one in the credentials file has a limit of its own."
    left = response.headers.get("ratelimit-remaining", "").partition(";")[0].strip()
    if left == "0" and not delay:  # nothing is left, and nobody says for how long: asking again is in vain
        return RateLimited(message, hint=hint)
    return TooMany(message, hint=hint, delay=delay)


def _denied(reference: Reference, login: Login, file: str, said: str) -> AccessDenied:
    what = f"read {reference.familiar_name}" if reference.repository else "in"
    name = f"{reference.registry} does not let us {what}{said}"
    if login.source:
        problem = f"; {login.problem}" if login.problem else f" with the credentials of {login.source}"
        also = f", and that they may read {reference.familiar_name}" if reference.repository else ""
        return AccessDenied(
            f"{name}{problem}",
            hint=f"Check the login and password in {login.source}{also}.",
        )
    if login.problem:
        return AccessDenied(f"{name}: {login.problem}", hint=_line_hint(reference, login, file))
    maybe = "The image does not exist or is private. " if reference.registry == DOCKER_HUB else ""
    cut = f" {_cut_hint()}" if reference.looks_cut else ""
    return AccessDenied(f"{name}, without credentials", hint=f"{maybe}{_line_hint(reference, login, file)}{cut}")


def _line_hint(reference: Reference, login: Login, file: str) -> str:
    user = reference.user or "USER"
    return f"If you have an account there, add a line to {file}: machine {login.machine} login {user} password ..."


def _missing(reference: Reference, blob: str, code: str, said: str) -> NotFound | NetworkError:
    if not reference.repository:
        return NetworkError(
            f"{reference.registry} is no registry: it has no /v2/{said}",
            hint="Check the name: some token services and web sites are hosts of their own.",
        )
    if blob:
        return NotFound(f"{reference.registry} does not have {blob} of {reference.familiar_name}{said}")
    where = f"{reference.registry}/{reference.repository}"
    if code == "NAME_UNKNOWN":
        message = f"there is no repository {where}{said}"
    elif reference.digest:
        message = f"{where} has no manifest {reference.digest}{said}"
    else:
        message = f"{where} has no tag {reference.tag}{said}"
    if reference.looks_cut:
        return NotFound(message, hint=_cut_hint())
    if reference.tag == "latest" and not reference.digest:
        return NotFound(message, hint="Name a tag: not every image has the one called latest.")
    return NotFound(message, hint="Check the spelling. Some registries say this of private images, too.")


def _cut_hint() -> str:
    return "If this came from an #SBATCH line, the unescaped '#' cut the rest off: write REGISTRY/IMAGE instead."


def _first_error(body: bytes) -> tuple[str, str]:
    """The code of the first error in *body*, and what to show of it; empty for anything but the specified form."""
    try:
        error = json.loads(body)["errors"][0]
        code, message = error.get("code", ""), error.get("message", "")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return "", ""
    shown = ": ".join(str(part) for part in (code, message) if part)
    return str(code), printable(shown)
