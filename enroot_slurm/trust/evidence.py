"""Evidence for an image's digest: signatures, where cosign's releases put them.

    tag sha256-HEX.sig in the image's repository   cosign 1 and 2 (`simple_signing`)
    referrers of the digest                        cosign 3 (`bundle`)

Whoever can push to the repository can put anything there: each is looked at for itself, and a broken one is a reason
in the message, nothing more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from enroot_slurm.errors import IntegrityError, NotFound, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import DOCKER_MANIFEST, MAX_DOCUMENT, OCI_MANIFEST
from enroot_slurm.trust import bundle, simple_signing
from enroot_slurm.trust.signature import Malformed, loaded, member

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from enroot_slurm.trust.signature import Signature

__all__ = ["MAX_SIGNATURES", "BlobDescriptor", "Evidence", "EvidenceSource", "Found", "blobs_of", "referrers_of"]

MAX_SIGNATURES = 64
"""Layers of a .sig image, and referrers, that are looked at."""
_MAX_REFERRER = 1 << 20
_OTHERS = ("application/vnd.cncf.notary.", "application/spdx+json", "application/vnd.cyclonedx+json")
"""Kinds of referrers that are known to hold no signature that is understood."""


class EvidenceSource(Protocol):
    """The repository of the image, which verifies what it hands out by digest.

    It may be at several places, mirrors and the primary: what one lacks, another may have.
    """

    def document(self, target: str) -> bytes | None:
        """The manifest by tag or digest, as received; None: there is none."""

    def each_document(self, target: str) -> Iterable[bytes]:
        """Likewise, of each place in turn; a place is asked when its turn comes."""

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """The blob *digest* of *size* bytes."""

    def referrers(self, digest: Digest) -> Iterable[bytes]:
        """The indexes, page by page, of what refers to *digest*; none where nothing does."""


class BlobDescriptor(NamedTuple):
    """A descriptor that points to a blob, or to the manifest of a referrer."""

    kind: str
    """Its media type, or the type of the artifact."""
    digest: Digest
    size: int
    annotations: dict[str, Any]


class Found(NamedTuple):
    """A signature, or why there is none at that place."""

    signature: Signature | None
    reason: str


class _Kept:
    """What *found* yields, as often as it is wanted; an error, too."""

    def __init__(self, found: Iterator[Found]) -> None:
        self._found = found
        self._kept: list[Found] = []
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Found]:
        at = 0
        while True:
            if at == len(self._kept):
                if self._error:
                    raise self._error
                try:
                    self._kept.append(next(self._found))
                except StopIteration:
                    return
                except Exception as error:
                    self._error = error
                    raise
            yield self._kept[at]
            at += 1


class Evidence:
    """The signatures of an image's digests; each is asked for once, and only when somebody wants it."""

    def __init__(self, source: EvidenceSource) -> None:
        self._source = source
        self._found: dict[tuple[bool, Digest], _Kept] = {}
        self.places: list[str] = []
        """Where has been looked."""

    def of(self, digest: Digest) -> Iterator[Found]:
        """The attachments of the manifest *digest*.

        Raises: what `EvidenceSource` does when the registry does not answer: no answer is never taken for no signature.
        """
        for is_bundle, find, where in (
            (False, self._tagged, f"{_tag(digest)}.sig"),
            (True, self._referring, f"referrers of {digest.short}"),
        ):
            if (found := self._found.get((is_bundle, digest))) is None:
                self.places.append(where)
                found = self._found[is_bundle, digest] = _Kept(find(digest))
            yield from found

    def _tagged(self, digest: Digest) -> Iterator[Found]:
        for content in self._source.each_document(f"{_tag(digest)}.sig"):
            try:
                layers = blobs_of(content)
            except Malformed as error:
                yield Found(None, f"{_tag(digest)[:19]}.sig: {error}")
            else:
                yield from self._in_layers(layers, digest)

    def _in_layers(self, layers: list[BlobDescriptor], digest: Digest) -> Iterator[Found]:
        for number, layer in enumerate(layers[:MAX_SIGNATURES], 1):
            place = f"signature {number} of {_tag(digest)[:19]}.sig"
            yield self._look(place, lambda layer=layer, place=place: self._simple(layer, place))

    def _simple(self, layer: BlobDescriptor, place: str) -> Signature:
        if layer.kind != simple_signing.LAYER:
            raise Malformed("its media type is not that of a signature")
        if layer.size > simple_signing.MAX_PAYLOAD:
            raise Malformed(f"its payload is larger than {simple_signing.MAX_PAYLOAD} bytes")
        content = self._source.small_blob(layer.digest, layer.size)
        return simple_signing.signature(content, layer.annotations, place)

    def _referring(self, digest: Digest) -> Iterator[Found]:
        seen: set[Digest] = set()
        for page in self._source.referrers(digest):
            try:
                for referrer in referrers_of([page]):
                    if referrer.kind.startswith(_OTHERS) or referrer.digest in seen:
                        continue
                    seen.add(referrer.digest)
                    if len(seen) > MAX_SIGNATURES:
                        return
                    place = f"referrer {referrer.digest.short}"
                    found = self._look(place, lambda r=referrer, p=place: self._bundle(r, digest, p))
                    if found.signature or found.reason:
                        yield found
            except Malformed as error:
                yield Found(None, f"the list of referrers: {error}")

    def _bundle(self, referrer: BlobDescriptor, subject: Digest, place: str) -> Signature | None:
        """The signature that *referrer* has; None: it is something else."""
        if referrer.size > _MAX_REFERRER:
            return None
        content = self._source.document(str(referrer.digest))
        if content is None:
            raise Malformed("its manifest is not there")
        layers = blobs_of(content)
        if not layers or not layers[0].kind.startswith(bundle.MEDIA_TYPE):
            return None
        stated = member(loaded(content, "manifest", MAX_DOCUMENT), "subject.digest", str)
        if len(layers) != 1 or stated != str(subject):
            raise Malformed("it has several layers, or is that of another image")
        if layers[0].size > bundle.MAX_BUNDLE:
            raise Malformed(f"its bundle is larger than {bundle.MAX_BUNDLE} bytes")
        return bundle.signature(self._source.small_blob(layers[0].digest, layers[0].size), place)

    def _look(self, place: str, find: Any) -> Found:
        try:
            return Found(find(), "")
        except (Malformed, IntegrityError, NotFound) as error:
            return Found(None, f"{place}: {printable(str(error))}")


def blobs_of(content: bytes, name: str = "layers") -> list[BlobDescriptor]:
    """The layers of the manifest *content*, or what else is in its list *name*.  Raises: Malformed."""
    document = loaded(content, "manifest", MAX_DOCUMENT)
    if name == "layers" and document.get("mediaType", OCI_MANIFEST) not in (OCI_MANIFEST, DOCKER_MANIFEST):
        raise Malformed("it is no manifest")
    return [_blob(each) for each in member(document, name, list)]


def referrers_of(pages: Iterable[bytes]) -> Iterator[BlobDescriptor]:
    """The entries of the indexes *pages*.  Raises: Malformed."""
    for page in pages:
        yield from blobs_of(page, "manifests")


def _blob(value: object) -> BlobDescriptor:
    whole = {"descriptor": value}
    kind = member(whole, "descriptor.mediaType", str)
    artifact = value.get("artifactType") if isinstance(value, dict) else None
    annotations = value.get("annotations") if isinstance(value, dict) else None
    size = member(whole, "descriptor.size", int)
    try:
        digest = Digest.parse(member(whole, "descriptor.digest", str))
    except IntegrityError as error:
        raise Malformed(str(error)) from None
    if size < 0:
        raise Malformed("a size is negative")
    return BlobDescriptor(
        artifact if isinstance(artifact, str) and artifact else kind,
        digest,
        size,
        annotations if isinstance(annotations, dict) else {},
    )


def _tag(digest: Digest) -> str:
    return f"{digest.algorithm}-{digest.hex}"
