"""The meaning of a registry's refusals, in words that say what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from enroot_slurm.errors import AccessDenied, EnrootSlurmError, NetworkError, NotFound, RateLimited, printable
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry.origin import shown
from enroot_slurm.registry.retry import LONGEST_WAIT, RETRIED, Passing, TooMany, come_back, go_duration, retry_after
from enroot_slurm.registry.words import Words, words_of

if TYPE_CHECKING:
    from enroot_slurm.oci.manifest import Descriptor
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.registry.auth import Login
    from enroot_slurm.registry.response import Response

__all__ = ["foreign_hint", "passing", "refusal"]

_FILE = "$ENROOT_CONFIG_PATH/.credentials"
_HTTPS_PORT = re.compile(rb"HTTPS (?:server|port)|plain HTTP to an SSL|HTTP request was sent to HTTPS", re.IGNORECASE)
_PULL_LIMIT = re.compile(r"pull rate limit|increase-rate-limit", re.IGNORECASE)
_LIMIT = re.compile(r"(\d{1,9})(?:;w=(\d{1,8}))?", re.ASCII)
_MIRROR = (
    "Log in, since a login has a limit of its own (a line in the credentials file), or set up a mirror for the site."
)


def foreign_hint(descriptor: Descriptor) -> str:
    """What to do about a blob that the registry does not have because it may not distribute it."""
    if not descriptor.urls:
        return ""
    return (
        f"The registry may not distribute this layer; its maker serves it at {shown(descriptor.urls[0])}. "
        "Images with such layers have to be pushed with them (docker: allow-nondistributable-artifacts)."
    )


def refusal(response: Response, reference: Reference, blob: str, login: Login, file: str) -> EnrootSlurmError:
    """The error for an answer that is not what was asked for: *reference*'s manifest, or the *blob* called so.

    *file* is the credentials file's name, if there is one.
    """
    words = words_of(response.error_body())
    said = f" ({words.text})" if words.text else ""
    if response.status in RETRIED:
        return passing(response, response.host)
    if response.status in {401, 403}:
        if not login.source and not login.problem and not _challenged(response):
            return _forbidden(response, reference, words)
        return _denied(reference, login, file or _FILE, said)
    if response.status == 404:
        return _missing(reference, blob, words.code, said)
    if response.status == 400 and _HTTPS_PORT.search(response.error_body()[:4096]):
        return NetworkError(
            f"{response.host} speaks https, but was asked by http",
            hint="Unset ENROOT_ALLOW_HTTP, or take it out of insecure_registries.",
        )
    return NetworkError(f"{response.host} answers {response.status}{said}")


def passing(response: Response, host: str) -> NetworkError:
    """The error for an answer of *host* whose status is one of `RETRIED`."""
    words = words_of(response.error_body())
    said = f" ({words.text})" if words.text else ""
    delay = retry_after(response.headers)
    if response.status != 429:
        return Passing(f"{host} answers {response.status}{said}", delay=delay)
    delay = delay or go_duration(words.text)
    limit = _LIMIT.match(response.headers.get("ratelimit-limit", ""))
    if _PULL_LIMIT.search(words.text):  # of Docker Hub: it lasts for hours
        return _pull_limit(host, response, limit, delay, said)
    message = f"{host}: too many requests" + (f", the limit is {_limit_text(limit)}" if limit else "") + said
    left = response.headers.get("ratelimit-remaining", "").partition(";")[0].strip()
    if left == "0" and not delay:  # nothing is left, and nobody says for how long: asking again is in vain
        return RateLimited(message, hint=_MIRROR)
    return TooMany(message, hint="The registry limits how fast it may be asked; later it works again.", delay=delay)


def _pull_limit(host: str, response: Response, limit: re.Match[str] | None, delay: float, said: str) -> RateLimited:
    source = printable(response.headers.get("docker-ratelimit-source", ""), 60)
    text = (
        f"{host}: the pull limit"
        + (f" of {_limit_text(limit)}" if limit else "")
        + (f" for {source}" if source else "")
        + " is used up"
    )
    text += (f" until {come_back(delay)}" if delay else "") + said
    if 0 < delay <= LONGEST_WAIT:
        return TooMany(text, hint=_MIRROR, delay=delay)
    return RateLimited(text, hint=_MIRROR)


def _limit_text(limit: re.Match[str]) -> str:
    """``100 in 6 h``."""
    seconds = int(limit[2] or 0)
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds and not seconds % size:
            return f"{limit[1]} in {seconds // size} {unit}"
    return limit[1]


def _challenged(response: Response) -> bool:
    return bool(response.headers.get("WWW-Authenticate"))


def _forbidden(response: Response, reference: Reference, words: Words) -> AccessDenied:
    """The error for a refusal that no login would change: nobody has asked for one, or said how."""
    what = f"{reference.familiar_name} to be read" if reference.repository else "any access"
    said = f": {words.text}" if words.text else ", and says no reason"
    server = printable(response.headers.get("Server", ""), 40)
    through = f", through the proxy {response.proxy}" if response.proxy else ""
    if words.page:
        hint = "That is a web page, not a registry's answer: a proxy or a firewall on the way may have refused it"
        hint += f" (it calls itself {server})." if server else "."
    elif response.status == 401:
        said += ", and how to log in it does not say"
        hint = "A registry would say how: a proxy on the way may have taken that away. Ask whoever runs it."
    else:
        hint = "It is a rule of the registry, which asks for no login. Ask its administrator."
    return AccessDenied(f"{response.host} does not allow {what}{through}{said}", hint=hint)


def _denied(reference: Reference, login: Login, file: str, said: str) -> AccessDenied:
    host = login.registry.netloc
    what = f"read {reference.familiar_name}" if reference.repository else "in"
    name = f"{host} does not let us {what}{said}"
    if host != reference.registry:
        name += f" (to which {reference.registry} redirects)"
    if login.source and login.good and not login.problem:
        return AccessDenied(
            f"{name}, although it has accepted the login of {login.source} before",
            hint="That login may not read this, or a rule of the registry forbids it. Ask its administrator.",
        )
    if login.source:
        problem = f"; {login.problem}" if login.problem else f" with the credentials of {login.source}"
        also = f", and that they may read {reference.familiar_name}" if reference.repository else ""
        return AccessDenied(
            f"{name}{problem}",
            hint=f"Check the login and password in {login.source}{also}.",
        )
    if login.unsupported:
        return AccessDenied(f"{name}: {login.problem}", hint="Supported are Basic and Bearer. Ask whoever runs it.")
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
    if reference.tag == "latest" and not reference.digest and code != "NAME_UNKNOWN":
        return NotFound(message, hint="Name a tag: not every image has the one called latest.")
    return NotFound(message, hint="Check the spelling. Some registries say this of private images, too.")


def _cut_hint() -> str:
    return "If this came from an #SBATCH line, the unescaped '#' cut the rest off: write REGISTRY/IMAGE instead."
