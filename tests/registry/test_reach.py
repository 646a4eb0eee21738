"""Where a registry may lead: to log in, and where blobs are."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

import pytest

from enroot_slurm.errors import AccessDenied
from enroot_slurm.registry import dialing, transport
from enroot_slurm.registry.origin import Origin, RefusedTarget
from enroot_slurm.registry.reach import Reach, trusted_form

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.fault_registry import FaultRegistry

    Faulty = Callable[..., FaultRegistry]

EVERYWHERE = [
    "https://169.254.169.254/token",
    "https://[fd00:ec2::254]/token",
    "https://100.100.100.200/token",
    "https://224.0.0.1/token",
    "https://0.0.0.0/token",
    "https://[::]/token",
    "https://[::ffff:169.254.169.254]/x",
    "https://[64:ff9b::169.254.169.254]/x",
    "https://[2002:a9fe:a9fe::]/x",
    "https://2852039166/",
    "https://metadata.google.internal/token",
    "https://metadata/token",
    "https://[fe80::1]/x",
    "https://169.254.1.1/x",
    "https://1.2.3.4.5/token",
    "https://u:p@auth.example.com/token",
    "https://r.example:0/token",
]
OWN = [
    "https://localhost/token",
    "https://x.localhost/token",
    "https://127.0.0.1/token",
    "https://127.1/token",
    "https://2130706433/token",
    "https://0x7f.1/token",
    "https://0177.0.0.1/token",
    "https://[::1]/token",
    "https://[::ffff:127.0.0.1]/token",
    "https://[::127.0.0.1]/token",
    "https://[64:ff9b::7f00:1]/token",
    "https://[2002:7f00:1::]/token",
]
PRIVATE = [
    "https://10.0.0.1/token",
    "https://172.16.3.4/token",
    "https://192.168.1.1/token",
    "https://100.64.0.1/token",
    "https://[fc00::1]/token",
    "https://[::ffff:10.0.0.1]/token",
    "https://[64:ff9b::a00:1]/token",
]


def reach(registry: str = "https://registry.example.com", peer: str = "", *trusted: str) -> Reach:
    made = Reach(Origin.of(registry), trusted)
    if peer:
        made.reached(ipaddress.ip_address(peer))
    return made


def allowed(where: Reach, url: str) -> bool:
    """Whether a realm and a redirect may lead to *url*, by one rule."""
    outcomes = set()
    for ask in (where.realm, lambda u: where.target(u, allow_http=False)):
        try:
            ask(url)
            outcomes.add(True)
        except RefusedTarget:
            outcomes.add(False)
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize(
    "url",
    [
        "https://auth.example.com/token",
        "https://auth.other.example/token?x=1",
        "https://8.8.8.8/token",
        "https://registry.example.com:8443/token",
        "https://[64:ff9b::808:808]/token",
    ],
)
def test_internet(url: str):
    """Other hosts on the Internet are all right (what they are sent is another question)."""
    assert allowed(reach(), url)


@pytest.mark.parametrize("url", EVERYWHERE)
@pytest.mark.parametrize("peer", ["8.8.8.8", "10.0.0.7", "127.0.0.1"])
def test_nobodys_business(url: str, peer: str):
    """Metadata services, link-local and other special addresses are for no registry to name, in any form."""
    assert not allowed(reach(peer=peer), url)


@pytest.mark.parametrize(("urls", "peers"), [(OWN, {"127.0.0.1"}), (PRIVATE, {"127.0.0.1", "10.0.0.7", "fd00::9"})])
def test_near(urls: list[str], peers: set[str]):
    """This machine may be named by a registry on it, the own network by one in it; none is, without a connection."""
    for peer in ("8.8.8.8", "10.0.0.7", "fd00::9", "127.0.0.1", "::ffff:8.8.8.8", ""):
        for url in urls:
            assert allowed(reach(peer=peer), url) == (peer in peers), (peer, url)


def test_http():
    """Plain http only where the registry is asked by it, or all are."""
    assert not allowed(reach(), "http://auth.example.com/token")
    assert not allowed(reach(), "http://registry.example.com/token")
    assert allowed(reach("http://registry.example.com"), "http://auth.example.com/token")
    assert reach().target("http://store.example/x", allow_http=True)


@pytest.mark.parametrize("registry", ["https://169.254.7.7:5000", "https://10.0.0.1:5000", "https://[fe80::1]:5000"])
def test_own_host(registry: str):
    """The registry's own host may be named with any port, wherever it is."""
    host = Origin.of(registry).netloc.rpartition(":")[0]
    assert allowed(reach(registry), f"https://{host}:8443/token")


def test_own_address():
    """So may the address at which it was reached."""
    assert allowed(reach(peer="10.0.0.7"), "https://10.0.0.7/token")
    where = reach("https://registry.local", "169.254.7.7")
    assert allowed(where, "https://169.254.7.7:8443/token")
    assert not allowed(where, "https://169.254.7.8/token")


def test_metadata_is_no_registry():
    """Not even the user may name a metadata service: in a hook, that user is whoever has a job."""
    where = reach("http://169.254.169.254")
    assert where.refusal("169.254.169.254", ipaddress.ip_address("169.254.169.254"))


@pytest.mark.parametrize(
    ("trusted", "url"),
    [
        ("minio.cluster", "https://minio.cluster:9000/x"),
        ("*.cluster", "https://a.b.cluster/x"),
        ("10.0.0.0/8", "https://10.3.2.1/x"),
        ("10.3.2.1/32", "https://[::ffff:10.3.2.1]/x"),
        ("fc00::/7", "https://[fc00::1]/x"),
        ("127.0.0.1/32", "https://127.0.0.1/x"),
    ],
)
def test_trusted(trusted: str, url: str):
    """What the site trusts may be led to by all."""
    where = reach("https://registry.example.com", "8.8.8.8", trusted)
    assert allowed(where, url)
    host = Origin.of(url).host
    if not Origin.of(url).address:
        assert not where.refusal(host, ipaddress.ip_address("10.9.9.9"))
        assert where.refusal(f"x{host[1:]}.evil.example", ipaddress.ip_address("10.9.9.9"))


@pytest.mark.parametrize(
    ("text", "form"),
    [("Minio.Cluster", "minio.cluster"), ("*.a.b", "*.a.b"), ("10.1.2.3", "10.1.2.3/32"), ("[::1]", "::1/128")],
)
def test_trusted_forms(text: str, form: str):
    """Hosts, domains, addresses, networks."""
    assert trusted_form(text) == form


@pytest.mark.parametrize("text", ["", "*", "*.", "a*.b", "a b", "a:80", "https://a", "10.0.0", "10.0.0.0/33", "a/b"])
def test_no_trusted_forms(text: str):
    """All else is an error."""
    with pytest.raises(ValueError):
        trusted_form(text)


def test_relative_realms():
    """A realm may be relative: then it is the registry's own."""
    assert reach().absolute_realm("/token") == "https://registry.example.com/token"
    assert reach().absolute_realm("//auth.example/t") == "https://auth.example/t"
    with pytest.raises(RefusedTarget):
        reach().absolute_realm("")


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let all names lead to *addresses*."""
    real = socket.getaddrinfo

    def resolve(host: str, *rest: object, **more: object) -> list[object]:
        return [info for address in addresses for info in real(address, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_names_are_judged_by_their_addresses(faulty: Faulty, monkeypatch: pytest.MonkeyPatch, address: str):
    """A name that leads to this machine is found out before a connection is made (DNS rebinding), in any form."""
    registry = faulty()
    resolving(monkeypatch, address)
    http = transport.Http(Origin.of("http://registry.example"), transport.Transport(proxies_from_env=False))
    with pytest.raises(AccessDenied, match="it is this machine") as caught:
        http.get(f"http://innocent.example:{registry.port}/store/x", {})
    assert "trusted_hosts" in caught.value.hint
    assert not registry.connections
    own = transport.Http(
        Origin.of(f"http://registry.example:{registry.port}"), transport.Transport(proxies_from_env=False)
    )
    assert own.get(f"http://registry.example:{registry.port}/v2/", {}).status == 200


def test_own_name(faulty: Faulty, monkeypatch: pytest.MonkeyPatch):
    """A registry on this node may redirect to the node's own name, whatever address that has (Debian's 127.0.1.1)."""
    registry, store = faulty(), faulty(address="127.0.1.1")
    digest = store.add_blob(b"content").digest
    registry.fault("/blobs/", status=307, headers={"Location": f"http://node.example:{store.port}/store/{digest}"})
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: real("127.0.1.1" if host == "node.example" else host, *rest, **more),
    )
    http = transport.Http(Origin.of(registry.url), transport.Transport(proxies_from_env=False))
    assert http.get(f"{registry.url}/v2/a/blobs/{digest}", {}).read(100) == b"content"


def test_allowed_addresses_are_taken_among_others(faulty: Faulty, monkeypatch: pytest.MonkeyPatch):
    """Of a name's addresses those that may not be reached are left out."""
    registry = faulty()
    resolving(monkeypatch, "169.254.169.254", "127.0.0.1")
    where = reach("http://127.0.0.1", "127.0.0.1")
    with dialing.dial("x", registry.port, 5, lambda address: where.refusal("x", address)) as sock:
        assert sock.getpeername() == ("127.0.0.1", registry.port)


def test_next_address(faulty: Faulty, monkeypatch: pytest.MonkeyPatch):
    """An address that refuses, and one that does not answer, don't keep from the next; what worked is remembered."""
    registry = faulty()
    with socket.socket(socket.AF_INET6) as full:
        full.bind(("::1", registry.port))
        full.listen(0)  # and accepts nothing: later connections are not answered
        fillers = []
        for _ in range(4):
            filler = socket.socket(socket.AF_INET6)
            filler.setblocking(False)
            filler.connect_ex(("::1", registry.port))
            fillers.append(filler)
        resolving(monkeypatch, "::1", "127.0.0.1")
        monkeypatch.setattr(dialing, "_NEXT", 0.01)
        monkeypatch.setattr(dialing, "_worked", {})
        asked: list[object] = []
        begin = dialing._begin
        monkeypatch.setattr(dialing, "_begin", lambda info, *rest: asked.append(info[0]) or begin(info, *rest))
        for _ in range(2):
            with dialing.dial("x", registry.port, 30, lambda _: "") as sock:
                assert sock.family == socket.AF_INET
                assert sock.gettimeout() == 30
        assert asked == [socket.AF_INET6, socket.AF_INET, socket.AF_INET]
        for filler in fillers:
            filler.close()


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch):
    """When all addresses refuse, the first one's reason counts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        resolving(monkeypatch, "127.0.0.1", "::1", "127.0.0.2")
        with pytest.raises(ConnectionRefusedError):
            dialing.dial("x", probe.getsockname()[1], 5, lambda _: "")


def test_families_by_turns():
    """The order of RFC 8305, 4: by turns, beginning with the family that worked."""
    six = [(socket.AF_INET6, 0, 0, "", (n,)) for n in "abc"]
    four = [(socket.AF_INET, 0, 0, "", (n,)) for n in "x"]
    order = ["".join(i[4][0] for i in dialing._mixed([*six, *four], first)) for first in (None, socket.AF_INET)]
    assert order == ["axbc", "xabc"]
    assert dialing._mixed([], None) == []
