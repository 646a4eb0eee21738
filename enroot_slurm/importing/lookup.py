"""Looking for an image in the caches: no network, no lock, no byte of its data.

What a job asks for a hundred times is found here, so nothing is imported that this does not need.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.directory import CacheDirectory, SharedCache, unwritable
from enroot_slurm.cache.images import Unusable, image_file, recipe_of
from enroot_slurm.cache.job_tags import check_job, key_of, read_resolved, read_tag, write_resolved
from enroot_slurm.cache.manifests import read_document
from enroot_slurm.cache.trust import Untrusted, check_untamperable, owner_of_untamperable
from enroot_slurm.errors import IntegrityError, UsageError, printable
from enroot_slurm.importing.permission import permit
from enroot_slurm.oci.local import LocalImage, parse_name
from enroot_slurm.oci.manifest import Manifest, parse_document
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.selection import select
from enroot_slurm.squashfs.format.superblock import Superblock

if TYPE_CHECKING:
    from enroot_slurm.cache.images import ImageFile, Sidecar
    from enroot_slurm.cache.job_tags import LastTag
    from enroot_slurm.importing.admission import Admission
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.image_config import ImageConfig
    from enroot_slurm.oci.manifest import Index
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.settings.config import Config

__all__ = ["CachedImage", "Lookup", "cached_image", "own_cache"]

_LONGEST_TIME = 20  # digits, with leading zeros


class CachedImage(NamedTuple):
    """An image in a cache: nobody changes the file, and nobody but root and the cache's owner could."""

    path: Path
    digest: Digest
    """Of the manifest for the platform."""
    uri: str
    """The name that the image was first imported by, as its /etc/rc has it."""
    size: int
    """Bytes."""
    checksum: str
    """Of the file, ``crc32:HEX`` as `system.checksum` has it; ``sha256:HEX`` for images of earlier versions."""
    public: bool
    """Whether it was fetched without credentials, or with the site's."""
    reused: bool
    """Whether it was there already."""
    endpoint: str = ""
    """The mirror, or mirrors and others, that served it; empty: the registry that its name says."""


def cached_image(path: Path, digest: Digest, sidecar: Sidecar, *, reused: bool) -> CachedImage:
    """The image at *path*, as *sidecar* describes it."""
    known = sidecar.uri, sidecar.size, sidecar.checksum, sidecar.public
    return CachedImage(path, digest, *known, reused=reused, endpoint=sidecar.endpoint)


class Lookup(NamedTuple):
    """One reference for one platform, and the caches where it may be."""

    reference: Reference | LocalImage
    platform: Platform
    own: CacheDirectory
    """The cache that this process may write."""
    shared: SharedCache | None
    """The site's cache, which this process may only read, if there is one."""
    recipe: str
    epoch: int | None
    """SOURCE_DATE_EPOCH: the time of images and of all in them, in seconds since 1970."""
    warning: str
    """Why the site's cache is not used, or empty."""
    strict: bool
    """Whether the own cache must not be used when others can change it."""
    tag_ttl: float
    """Seconds for which a tag is not asked for again."""
    asked: bool = False
    """Whether the platform was asked for by its name: then an image's config may contradict."""
    policies: tuple[str, ...] = ()
    """Files that say which images may be used."""
    verifiers: tuple[str, ...] = ()
    """Directories of programs that do."""
    pin: Digest | None = None
    """What the tag is, whatever its registry says."""

    @classmethod
    def of(
        cls,
        uri: str,
        arch: str | None,
        config: Config,
        job: str = "",
        *,
        strict: bool = True,
        shared: bool = False,
        pin: Digest | None = None,
    ) -> Lookup:
        """The lookup for *uri*.

        What is in no registry goes into the user's own cache unless *shared* is true.
        Without *strict*, the own cache may be one that others can change: for an import that serves only this user,
        and that looks at each file it uses.

        Raises: InvalidReference, also for a registry alone; InvalidPlatform; UsageError, also for a wrong
        SOURCE_DATE_EPOCH; ImageRefused, when its name is enough to say no; Untrusted, when others can change the own
        cache.
        """
        reference = parse_name(uri)
        permit(reference, config)
        is_local = isinstance(reference, LocalImage)
        platform = Platform.parse(arch) if arch else Platform.host()
        # A stream is this process' alone, and another one the next time.
        job = "" if isinstance(reference, LocalImage) and reference.is_stream else job
        job = check_job(job)
        try:
            own, site, warning = _caches(config, job, private=is_local and not shared)
            if strict and not own.public:
                check_untamperable(own.root, os.geteuid(), strict=False)
        except OSError as error:  # a file, or links without an end, are on the way
            raise unwritable(config.cache_path, error) from None
        epoch = _epoch(os.environ.get("SOURCE_DATE_EPOCH", ""))
        recipe = recipe_of(config.squash_options.recipe, epoch)
        policies = tuple(each for each in config.signature_policy if each != "off")
        return cls(
            *(reference, platform, own, site, recipe, epoch, warning, strict),
            *(0.0 if is_local else config.tag_ttl, bool(arch), policies, config.verifier_dir, pin),
        )

    @property
    def local(self) -> LocalImage | None:
        """The reference, if it is in no registry."""
        return self.reference if isinstance(self.reference, LocalImage) else None

    @property
    def exact(self) -> Digest | None:
        """The digest that was asked for, if it was."""
        return self.reference.digest or self.pin

    @property
    def key(self) -> str:
        """The reference and the platform as a part of paths."""
        return key_of(str(self.reference), str(self.platform))

    @property
    def caches(self) -> list[tuple[Path, set[int]]]:
        """The caches, and who can have written each, in the order in which they are looked at."""
        own = (self.own.root, {0, os.geteuid()})
        return [own] if self.shared is None else [(self.shared.root, self.shared.owners), own]

    def admission(self) -> Admission | None:
        """The check that the image has to pass before it may be used; None: there is none.

        Raises: ImageRefused, when its name is enough to say no; ConfigError.
        """
        if not self.policies and not self.verifiers:
            return None
        from enroot_slurm.importing.admission import Admission  # noqa: PLC0415 - most sites ask for nothing

        return Admission.of(self.reference, self.policies, self.verifiers, self.caches, self.own)

    def find(self) -> CachedImage | None:
        """The image, if it is there, and without a request it is known which one is meant and that it may be used.

        Raises: ImageRefused, ConfigError.
        """
        admission = self.admission()
        found = self._find()
        return found if found is None or admission is None or admission.is_known(found.digest) else None

    def _find(self) -> CachedImage | None:
        if self.exact is not None:
            # Mostly it is the digest of the very manifest; an index has to be read.
            return self.image(self.exact) or self._image_of(self.manifest(self.exact))
        digest = self.resolved()
        return self.image(digest) if digest is not None else None

    def resolved(self) -> Digest | None:
        """The digest of the manifest that the job has got for its tag, if it has asked before.

        Without that, what anybody has got in the last ``tag_ttl`` seconds, which is the job's answer then.
        """
        if self.own.job:
            for root, owners in self.caches:
                digest = read_resolved(root, self.own.job, self.key, owners)
                if digest is not None:
                    return digest
        if self.tag_ttl and (last := self.last_resolved()) and abs(time.time() - last.time) < self.tag_ttl:
            return write_resolved(self.own, self.key, self.shown, last[0]) if self.own.job else last[0]
        return None

    def last_resolved(self) -> LastTag | None:
        """The last digest that anybody has got for the tag, and when (seconds since 1970)."""
        found = [read_tag(root, self.key, owners) for root, owners in self.caches]
        return max((each for each in found if each), key=lambda each: each.time, default=None)

    @property
    def shown(self) -> str:
        """The reference for others to read: without its login."""
        return str(self.reference if isinstance(self.reference, LocalImage) else self.reference._replace(user=""))

    def image(self, digest: Digest) -> CachedImage | None:
        """The image of the manifest *digest*, if it is in a cache and nothing is wrong with it.

        Raises: Untrusted, when others can change the own cache.
        """
        for root, owners in self.caches:
            file = image_file(root, self.recipe, self.platform.directory, digest)
            try:
                sidecar = file.look(owners, Superblock.parse)
            except Unusable:
                continue  # whoever makes it again says so
            except Untrusted:
                if root == self.own.root and self.strict:
                    raise
                continue
            if sidecar is not None and sidecar.digest == str(digest):
                return cached_image(file.path, digest, sidecar, reused=True)
        return None

    def manifest(self, digest: Digest) -> Manifest | None:
        """The manifest for the platform, if *digest* names it or an index above it, and all these are in a cache.

        Raises: PlatformNotFound, IntegrityError.
        """

        def read(wanted: Digest) -> Manifest | Index:
            document = self.document(wanted)
            if document is None:
                raise _NotHereError
            return document

        def platform_of(manifest: Manifest) -> Platform | None:
            config = self.image_config(manifest.config.digest)
            if config is None:
                raise _NotHereError
            return config.platform

        reference = self.reference
        name = str(reference)
        if not isinstance(reference, LocalImage):
            name = f"{reference.familiar_name}:{reference.target}"
        try:
            return select(read(digest), self.platform, read, name, platform_of=platform_of)
        except _NotHereError:
            return None

    def document(self, digest: Digest) -> Manifest | Index | None:
        """The manifest or index *digest*, if it is in a cache."""
        for root, _ in self.caches:
            content = read_document(root, digest)
            if content is not None:
                with contextlib.suppress(IntegrityError):  # some can't be understood without what the registry said
                    return parse_document(content, "")
        return None

    def image_config(self, digest: Digest) -> ImageConfig | None:
        """The image config *digest*, if it is in a cache because a platform was chosen by it."""
        for root, _ in self.caches:
            content = read_document(root, digest)
            if content is not None:
                from enroot_slurm.oci.image_config import ImageConfig  # noqa: PLC0415 - few hits need it

                with contextlib.suppress(IntegrityError):
                    return ImageConfig.parse(content)
        return None

    def own_file(self, digest: Digest) -> ImageFile:
        """Where the image of the manifest *digest* belongs."""
        return image_file(self.own.root, self.recipe, self.platform.directory, digest)

    def _image_of(self, manifest: Manifest | None) -> CachedImage | None:
        return self.image(manifest.digest) if manifest is not None else None


def own_cache(config: Config) -> CacheDirectory:
    """The cache into which this user imports.  Raises: Untrusted, StorageError."""
    return _caches(config, "", private=False)[0]


class _NotHereError(Exception):
    """A document is in no cache."""


def _epoch(text: str) -> int | None:
    """The time that SOURCE_DATE_EPOCH states by *text* (reproducible-builds.org); an image has 32 bits for it."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_TIME and int(text) < 1 << 32):
        raise UsageError(
            f"SOURCE_DATE_EPOCH: expected whole seconds since 1970, up to {(1 << 32) - 1}, got '{printable(text, 40)}'",
            hint="Unset it, or set it as 'date +%s' or 'git log -1 --format=%ct' print it.",
        )
    return int(text)


def _caches(config: Config, job: str, *, private: bool) -> tuple[CacheDirectory, SharedCache | None, str]:
    """The cache to write, the site's to read if there is one, and why that is not used if it is not.

    What is *private* goes into the own cache, even if the site's is this user's.
    """
    own = CacheDirectory(config.cache_path, job=job)
    if not config.shared_cache:
        return own, None, ""
    root, user = Path(config.shared_cache), os.geteuid()
    try:
        owner = owner_of_untamperable(root, config.cache_user)
        if owner is None:
            if own.root != root:
                return own, None, ""
            check_untamperable(root, user)
    except (OSError, Untrusted) as error:
        if own.root == root:
            raise
        if isinstance(error, OSError):
            return own, None, f"the shared cache {root} is not used: {error.strerror}"
        return own, None, f"the shared cache is not used: {error}" + (f" ({error.hint})" if error.hint else "")
    if owner in {None, user} and not private:
        return CacheDirectory(root, public=True, job=job), None, ""
    if owner in {None, user} and own.root == root:
        raise UsageError(
            f"what is in no registry does not go into the site's cache {root} by itself, which everybody can read",
            hint="Say --shared if it may, or set ENROOT_CACHE_PATH to another directory.",
        )
    if own.root == root:
        raise Untrusted(
            f"the shared cache {root} belongs to user {owner}, who alone may write to it",
            hint="Run this as that user, or use a cache of your own (ENROOT_CACHE_PATH).",
        )
    return own, SharedCache(root, {0, user if owner is None else owner}), ""
