"""Origins of URLs, and the many forms of an address."""

from __future__ import annotations

import ipaddress

import pytest

from enroot_slurm.registry.origin import Origin, RefusedTarget, followed, plain, same_owner, shown


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
        "https://host:0/",
        "https://host:x/",
        "https://[::1/",
        "https://h%6fst/",
        "https://hést/",
    ],
)
def test_not_an_origin(url: str):
    """What parsers read in different ways is refused, and so is the port that nothing can listen to."""
    with pytest.raises(RefusedTarget):
        Origin.of(url)


@pytest.mark.parametrize(
    ("address", "inner"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::ffff:a00:1", "10.0.0.1"),
        ("::127.0.0.1", "127.0.0.1"),
        ("64:ff9b::169.254.169.254", "169.254.169.254"),
        ("64:ff9b:1::10.0.0.1", "10.0.0.1"),
        ("2002:7f00:1::", "127.0.0.1"),
        ("2002:a9fe:a9fe::1", "169.254.169.254"),
        ("2001:0:1:2:3:4:80ff:fffe", "127.0.0.1"),
        ("fd00::5efe:10.0.0.1", "10.0.0.1"),
        ("2a00::200:5efe:192.168.1.1", "192.168.1.1"),
        ("::1", "::1"),
        ("::", "::"),
        ("2a00:1450:4001::1", "2a00:1450:4001::1"),
        ("8.8.8.8", "8.8.8.8"),
    ],
)
def test_addresses_in_addresses(address: str, inner: str):
    """IPv6 addresses that stand for IPv4 ones are judged as these."""
    assert str(plain(ipaddress.ip_address(address))) == inner


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/x", "https://r.example/x"),
        ("y", "https://r.example/v2/y"),
        ("//s.example/x", "https://s.example/x"),
        (" https://s.example/a b\t", "https://s.example/a%20b"),
        ("/ä".encode().decode("latin-1"), "https://r.example/%C3%A4"),
        ("/%C3%A4?sig=a%2Fb+c&x=[1]", "https://r.example/%C3%A4?sig=a%2Fb+c&x=[1]"),
        ("/a\tb", "https://r.example/a%09b"),
    ],
)
def test_followed(location: str, url: str):
    """What servers forget to encode is encoded; what is encoded stays as it is."""
    assert followed("https://r.example/v2/x", location) == url


def test_unreadable_location():
    """Brackets that are no address."""
    with pytest.raises(RefusedTarget):
        followed("https://r.example/", "https://[x/")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://u:p@host/x?sig=secret#f", "https://host/x"),
        ("HTTPS://u:p/q@host/x", "HTTPS://host/x"),
        ("https://u:p@evil@host/", "https://host/"),
        ("u:p@host", "host"),
        ("https:\\\\u:p@host", "host"),
        ("https://host/x", "https://host/x"),
    ],
)
def test_shown(url: str, text: str):
    """A login in a URL, and what may sign it, are not for people."""
    assert shown(url) == text


@pytest.mark.parametrize(
    ("realm", "registry", "same"),
    [
        ("registry.example.com", "registry.example.com", True),
        ("example.com", "registry.example.com", True),
        ("gitlab.example.com", "registry.gitlab.example.com", True),
        ("registry.example.com", "example.com", False),
        ("auth.example.com", "registry.example.com", False),
        ("example.com", "evilexample.com", False),
        ("example.com", "example.com.evil.org", False),
        ("me.uk", "a.me.uk", True),  # nobody's host; and whoever has it decides about a.me.uk
        ("a.me.uk", "b.me.uk", False),
        ("a.gv.at", "b.gv.at", False),
        ("yours.azurecr.io", "mine.azurecr.io", False),
        ("com", "a.com", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("0.0.1", "10.0.0.1", False),
        ("::2", "::1", False),
        ("auth", "registry", False),
    ],
)
def test_same_owner(realm: str, registry: str, *, same: bool):
    """One owner: the same host, or one above it; never by a common suffix."""
    assert same_owner(realm, registry) == same
