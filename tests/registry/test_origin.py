"""Which hosts a registry may name: where to log in, and where blobs are."""

from __future__ import annotations

import ipaddress

import pytest

from enroot_slurm.registry.origin import (
    Origin,
    RefusedTarget,
    check_realm,
    check_redirect,
    forbidden_address,
    same_site,
)

REGISTRY = Origin.of("https://registry.example.com/v2/")


@pytest.mark.parametrize(
    ("url", "origin", "netloc"),
    [
        ("https://Host.Example/x", ("https", "host.example", 443), "host.example"),
        ("http://host:80/", ("http", "host", 80), "host"),
        ("https://host:5000", ("https", "host", 5000), "host:5000"),
        ("https://[::1]:5000/x", ("https", "::1", 5000), "[::1]:5000"),
        ("https://host./", ("https", "host", 443), "host"),
    ],
)
def test_origin(url: str, origin: tuple[str, str, int], netloc: str):
    """Scheme, host and port, with the usual ports filled in."""
    assert Origin.of(url) == origin
    assert Origin.of(url).netloc == netloc


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/token",
        "//host/token",
        "file:///etc/passwd",
        "ftp://host/",
        "https://",
        "https:///x",
        "https://user:pw@host/",
        "https://user@host/",
        "https://victim.example:@evil.example/",
        "https://host\\@evil/",
        "https://ho st/",
        "https://host/\r\nX: y",
        "https://host:99999/",
        "https://host:x/",
        "https://[::1/",
        "https://h%6fst/",
        "https://hést/",
    ],
)
def test_not_an_origin(url: str):
    """What parsers read in different ways is refused."""
    with pytest.raises(RefusedTarget):
        Origin.of(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://auth.example.com/token",
        "https://auth.other.example/token?x=1",
        "https://8.8.8.8/token",
        "https://registry.example.com:8443/token",
    ],
)
def test_realms(url: str):
    """Other hosts on the Internet are places to log in (what they get is another question)."""
    assert check_realm(url, REGISTRY)


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example.com/token",
        "https://localhost/token",
        "https://x.localhost/token",
        "https://127.0.0.1/token",
        "https://127.1/token",
        "https://2130706433/token",
        "https://0x7f.1/token",
        "https://0177.0.0.1/token",
        "https://[::1]/token",
        "https://[::ffff:127.0.0.1]/token",
        "https://[::ffff:10.0.0.1]/token",
        "https://0.0.0.0/token",
        "https://[::]/token",
        "https://10.0.0.1/token",
        "https://172.16.3.4/token",
        "https://192.168.1.1/token",
        "https://[fc00::1]/token",
        "https://169.254.169.254/token",
        "https://[fd00:ec2::254]/token",
        "https://100.100.100.200/token",
        "https://224.0.0.1/token",
        "https://metadata.google.internal/token",
        "https://metadata/token",
        "https://1.2.3.4.5/token",
        "https://u:p@auth.example.com/token",
    ],
)
def test_refused_realms(url: str):
    """Plain http, the own machine, the own network, and metadata services are not (oras-go CVE-2026-48978)."""
    with pytest.raises(RefusedTarget):
        check_realm(url, REGISTRY)


@pytest.mark.parametrize(
    ("registry", "realm"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("http://localhost:5000", "https://127.0.0.1/token"),
        ("https://10.0.0.1:5000", "https://10.0.0.1:5000/token"),
        ("http://registry.example.com", "http://auth.example.com/token"),
    ],
)
def test_realms_beside(registry: str, realm: str):
    """A registry may name itself; on one machine, for tests, also another port; and http if it is reached by that."""
    assert check_realm(realm, Origin.of(registry))


def test_private_realm_elsewhere():
    """A private address is only allowed to name itself."""
    with pytest.raises(RefusedTarget):
        check_realm("https://10.0.0.2/token", Origin.of("https://10.0.0.1"))


def test_redirects():
    """From https to http only where that is allowed; the store may be in the own network, not on the own machine."""
    with pytest.raises(RefusedTarget, match="not https"):
        check_redirect("http://store.example/x", REGISTRY, allow_http=False)
    assert check_redirect("http://store.example/x", REGISTRY, allow_http=True)
    assert check_redirect("https://10.0.0.9:9000/x", REGISTRY, allow_http=False)
    with pytest.raises(RefusedTarget, match="this machine"):
        check_redirect("https://127.0.0.1/x", REGISTRY, allow_http=False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("registry.example.com", "registry.example.com", True),
        ("registry.example.com", "auth.example.com", True),
        ("registry.example.com", "example.com", True),
        ("registry.example.com", "evilexample.com", False),
        ("example.com.evil.org", "example.com", False),
        ("a.co.uk", "b.co.uk", False),
        ("x.a.co.uk", "y.a.co.uk", True),
        ("1.dkr.ecr.us-east-1.amazonaws.com", "2.dkr.ecr.us-east-1.amazonaws.com", False),
        ("mine.azurecr.io", "mine.azurecr.io", True),
        ("mine.azurecr.io", "yours.azurecr.io", False),
        ("a.github.io", "b.github.io", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "11.0.0.1", False),
        ("registry", "auth", False),
        ("com", "com", True),
        ("a.com", "b.com", False),
        ("::1", "::2", False),
    ],
)
def test_same_site(one: str, other: str, *, same: bool):
    """One owner: the same host, or the same registrable domain."""
    assert same_site(one, other) == same == same_site(other, one)


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [("169.254.1.1", True), ("::ffff:169.254.1.1", True), ("fe80::1", True), ("10.0.0.1", False), ("127.0.0.1", False)],
)
def test_forbidden_address(address: str, *, forbidden: bool):
    """Addresses that nobody may be sent to, also inside of IPv6."""
    assert bool(forbidden_address(ipaddress.ip_address(address))) == forbidden
