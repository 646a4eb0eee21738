"""Which certificates a registry's connection is checked against, and which one it is shown.

Source of the directories' layout: containers-certs.d(5), as Docker and Podman use it.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enroot_slurm.registry.origin import Origin

__all__ = ["client_context", "describe_failure"]

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu
    "/etc/pki/tls/certs/ca-bundle.crt",  # RHEL
    "/etc/ssl/ca-bundle.pem",  # SLES
)


def client_context(
    origin: Origin, ca_file: str, certs_dirs: Sequence[Path], last_resort: str
) -> tuple[ssl.SSLContext, bool]:
    """The TLS settings for *origin*, and whether they hold a client certificate.

    *ca_file* takes the place of the system's store (as *last_resort* does on a node that has none); what is in
    ``HOST[:PORT]/*.crt`` of *certs_dirs* comes on top.

    Raises: ConfigError, with the file that can't be used.
    """
    # Not ssl.create_default_context: its VERIFY_X509_STRICT (Python 3.13) refuses many sites' private CAs.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        _load_ca(context, ca_file)
    else:
        _load_system(context, last_resort)
    directories = [d / name for d in certs_dirs for name in _directory_names(origin)]
    for certificate in (c for d in directories for c in _files(d, ".crt")):
        _load_ca(context, str(certificate))
    for certificate in (c for d in directories for c in _files(d, ".cert")):
        key = certificate.with_suffix(".key")
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{certificate} with {key.name}: not a usable certificate: {error}") from None
        return context, True
    return context, False


def _directory_names(origin: Origin) -> list[str]:
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return [f"{host}:{origin.port}", host] if origin.port == 443 else [f"{host}:{origin.port}"]


def _files(directory: Path, suffix: str) -> list[Path]:
    """The files in *directory* whose names end with *suffix*; none where this user may not look.

    A hook's ``~`` is root's home, which those whom it becomes can't enter.
    """
    try:
        names = os.listdir(directory)  # noqa: PTH208  only names are wanted
    except OSError:
        return []
    return sorted(directory / name for name in names if name.endswith(suffix))


def _load_ca(context: ssl.SSLContext, file: str) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{file}: not a usable file of CA certificates: {error}") from None


def _load_system(context: ssl.SSLContext, last_resort: str) -> None:
    paths = ssl.get_default_verify_paths()
    if file := next((f for f in (paths.cafile, *_BUNDLES) if f and os.access(f, os.R_OK)), None):
        _load_ca(context, file)
    elif paths.capath and any(Path(paths.capath).iterdir()):
        context.load_verify_locations(capath=paths.capath)
    else:
        _load_ca(context, last_resort)


_OWN_CA = "If a CA of your own has signed it, name its file in ca_file, or put it into a certs.d directory."
_CLOCK = "Check this node's clock (timedatectl); if it is right, the registry's certificate has to be renewed."
_VERIFICATION = {
    # codes of X509_verify_cert_error_string(3): what they mean, and what to do
    9: ("it is not yet valid", _CLOCK),
    10: ("it has expired", _CLOCK),
    13: ("its time of validity is malformed", "The registry's certificate has to be made anew."),
    18: (
        "it is self-signed",
        "If that is meant to be so, name the certificate's file in ca_file, or put it into certs.d.",
    ),
    19: ("a self-signed certificate, of an unknown CA, is in its chain", _OWN_CA),
    20: ("its issuer is not known here", _OWN_CA),
    21: ("its issuer is not known here, or the registry does not send the certificates in between", _OWN_CA),
    23: ("it was revoked", "The registry needs a new certificate."),
    62: ("it is for another host name", "Check the registry's name: it has to be one of those in the certificate."),
    64: ("it is for another address", "Name the registry as its certificate does, by a host name."),
    66: ("its key is too weak", "The registry's certificate has to be made anew, with a longer key."),
    67: ("the key of its CA is too weak", "The CA's certificate has to be made anew, with a longer key."),
    68: ("its signature is too weak", "The certificate has to be signed anew, with SHA-256."),
}
_ALERTS = (
    # parts of OpenSSL's reasons: what they mean, and what to do
    (
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"),
        "the registry does not speak https",
        "If it is meant to be reached by http, set ENROOT_ALLOW_HTTP=y or name it in insecure_registries.",
    ),
    (
        ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION"),
        "it speaks only versions of TLS that are too old to be safe",
        "The registry, or the proxy before it, has to offer TLS 1.2 or later.",
    ),
    (
        ("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA",
         "ALERT_CERTIFICATE_UNKNOWN", "ALERT_CERTIFICATE_EXPIRED", "ALERT_ACCESS_DENIED"),
        "it refuses the connection, as a registry does that wants to see another certificate, or one at all",
        "Put the client's certificate and key into a certs.d directory: HOST[:PORT]/client.cert and client.key.",
    ),
    (("UNRECOGNIZED_NAME",), "it does not know this host name", "Check the registry's name."),
)  # fmt: skip


def describe_failure(error: BaseException) -> tuple[str, str, bool]:
    """The meaning of the TLS *error*, a hint, and whether it may pass with time."""
    text = f"{getattr(error, 'reason', '')} {error}"
    for parts, meaning, hint in _ALERTS:
        if any(part in text for part in parts):
            reason = printable(str(getattr(error, "reason", "") or ""), 60)
            return f"{meaning}{f' ({reason})' if reason else ''}", hint, False
    if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in text:
        why = printable(getattr(error, "verify_message", "") or "it can't be verified")
        meaning, hint = _VERIFICATION.get(getattr(error, "verify_code", 0), ("", _OWN_CA))
        return f"its certificate is refused: {f'{meaning} ({why})' if meaning else why}", hint, False
    if "EOF" in text:
        return "the connection broke", "", True
    why = str(getattr(error, "reason", None) or type(error).__name__)
    return f"TLS failed: {printable(why)}", "", False
