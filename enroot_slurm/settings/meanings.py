"""Each setting's meaning, in Markdown: the one place for ``config --help``, etc/config.yaml and docs/configuration.md.

A link leads to a page of docs/, or to a part of docs/configuration.md.  The two files are written by
tests/support/settings_pages.py.
"""

from __future__ import annotations

import re

__all__ = ["MEANINGS", "plain"]

MEANINGS = {
    "config_path": "The directory of `.credentials`",
    "cache_path": "The directory of your own cache: blobs, layers and images. All nodes may share it",
    "temp_path": "The directory of enroot's work files. An import needs none",
    "runtime_path": "The directory of enroot's running containers. An import needs none",
    "gzip_program": (
        "The program that decompresses gzip, such as `pigz`, by name or absolute path. Empty: the process "
        "does it itself, which is faster. enroot's default: `pigz` or `gzip`"
    ),
    "squash_options": (
        "The options of mksquashfs, which are a part of the cache's key: [options of "
        "mksquashfs](#options-of-mksquashfs)"
    ),
    "max_processors": "The number of processors that an import uses. 0: all that the process may use",
    "max_imports": (
        "The number of imports that a node runs at once for a cache. Further ones wait: [how many at "
        "once](cache.md#how-many-at-once). 0: no limit"
    ),
    "user_rate": (
        "The number of images a minute for which the site's cache asks registries, for the jobs of one user on one "
        "node. Further ones wait, up to `lock_timeout`. 0: no limit"
    ),
    "max_connections": "The number of connections at once. 64 is the most, and 0 means 64",
    "parallel_ranges": (
        "The number of connections that fetch parts of one blob of 64 MiB or more, as far as "
        "`max_connections` leaves some: [large layers](#large-layers). 0: one connection for each blob"
    ),
    "max_download": (
        "The most bytes that all layers of an image may have in the registry. Larger images are refused: "
        "[limits](#limits)"
    ),
    "max_unpacked": "The most bytes that all layers of an image may have when they are unpacked",
    "connect_timeout": "The longest wait for a connection. 0: no limit",
    "transfer_timeout": "The longest time of a transfer. 0: no limit",
    "import_timeout": "The longest time for all requests of an image, with retries. 0: no limit",
    "min_rate": (
        "The bytes per second that a connection must give for a minute. A slower connection is closed and "
        "made again. 0: no limit"
    ),
    "transfer_retries": "How often a failed transfer is tried again. enroot's default: 0",
    "allow_http": "Ask all registries over http. This is insecure: prefer `insecure_registries`",
    "squash_memory": "Has no use any more. A value causes a warning",
    "layer_cache": (
        "Make a squashfs image of each layer in the cache, and join it into every image that has the layer. "
        "`no`: convert all layers together each time"
    ),
    "keep_blobs": (
        "Keep the blobs of layers beside their images. `no`: a blob is removed once its layer's image is "
        "there, and downloaded again when it is needed: [small disks](cache.md#small-disks)"
    ),
    "shared_cache": (
        "The site's cache: [cache.md](cache.md#the-sites-cache). It is looked at first, and only its owner "
        "writes it. Empty: there is none"
    ),
    "cache_user": (
        "The user that the shared cache belongs to, and that imports for hooks. Empty: the directory's owner"
    ),
    "site_credentials": (
        "A file of logins (netrc, or Docker's form) for imports into the shared cache. All users get what "
        "these logins give access to. Empty: no logins"
    ),
    "auth_file": (
        "The only file in Docker's form that is read for your own logins: [credentials.md](credentials.md). "
        "Empty: docker's and podman's usual files"
    ),
    "credential_sources": (
        "The kinds of files that are read for logins: `netrc` is `.credentials`, `docker` the files of "
        "docker and podman"
    ),
    "cache_high": (
        "A collection begins above this size, and removes the least recently used first: "
        "[housekeeping](cache.md#housekeeping). A share is one of the file system. Empty: the cache may "
        "grow"
    ),
    "cache_low": "A collection ends below this size. Empty: nine tenths of `cache_high`",
    "min_free": (
        "The space that an import must leave free in the file system of its cache: [space](cache.md#space). Empty: none"
    ),
    "cache_max_age": "A collection removes files that were not used for this time. Empty: any age",
    "failure_ttl": 'How long jobs share an answer such as "no such image" before one asks again',
    "tag_ttl": (
        "How long all jobs use the digest that a tag had, before one asks the registry again. 0: each job asks once"
    ),
    "stale_tags": "Use the last known digest of a tag, with a warning, when the registry does not answer",
    "offline": (
        "Ask no registry for anything: a tag is what it was last, and what is not in a cache is an error. For "
        "clusters without a network: [archives.md](archives.md#clusters-without-a-network)"
    ),
    "locks": (
        "Lock work that other processes might do as well. `no` is for file systems where locks fail or "
        "hang; work may then be done twice"
    ),
    "lock_timeout": (
        "The longest wait for another process that downloads or converts the same thing. Then it is done twice"
    ),
    "worker_timeout": "The longest wait for another process that gives no sign of life, such as a stopped one",
    "credential_commands": (
        "The command line runs a password `$(COMMAND)` in `.credentials`, and credential helpers. For hooks "
        "see `hook_credential_commands`"
    ),
    "run_path": "The directory, on each node, in which the prolog records the images of jobs. It is root's",
    "prolog_deadline": (
        "After this time the prolog lets the job start, and the import goes on in the background. Keep it "
        "below Slurm's PrologEpilogTimeout and, with PrologFlags=Alloc, below BatchStartTimeout + "
        "MessageTimeout (20 by default): [slurm.md](slurm.md)"
    ),
    "comment_requests": "A word `enroot:REF` in a job's comment (`--comment`, `--extra`) asks for an image",
    "hook_credential_commands": (
        "The same as `credential_commands` for hooks, which import as the job's user with that user's rights"
    ),
    "site_failure_wait": "How long a hook tries an import again while the registry fails",
    "on_site_failure": (
        "When the registry or the caches fail: `fail` ends the step, `continue` runs it without the image"
    ),
    "on_node_failure": (
        "When this node alone can't convert images: `fail` ends the job, `drain` lets the prolog fail too, "
        "so that Slurm drains the node"
    ),
    "record_in": (
        "`admincomment` lets the prolog append `enroot=DIGEST[,DIGEST...]` to the job's AdminComment, which Slurm's "
        "accounting keeps: [records](metrics.md#records)"
    ),
    "ca_file": "A file of CA certificates in place of the system's. Empty: the system's",
    "insecure_registries": (
        "The registries that are asked over http: `HOST` or `HOST:PORT`, exactly as in the image's name"
    ),
    "mirrors": (
        "Mirrors of registries, or of parts of them: `{docker.io: [harbor.site/dockerhub]}`, or "
        "`PREFIX=MIRROR,...`. They are asked first, in order: [registries.md](registries.md#mirrors)"
    ),
    "registries_conf": (
        "Which registries.conf, as of podman, is read for mirrors and blocked registries: `auto` all usual "
        "files, `off` none, or one file: [registries.md](registries.md#registriesconf)"
    ),
    "allowed_images": (
        "Only images whose full names begin so may be used, such as `docker.io/library`. Empty: all. A "
        "user's list narrows the site's: [registries.md](registries.md#which-images-may-be-used)"
    ),
    "blocked_images": "Images whose full names begin so may not be used. A user's list adds to the site's",
    "trusted_hosts": (
        "Private hosts to which registries may lead, for logins or blobs: `HOST`, `*.DOMAIN` or "
        "`ADDRESS/BITS`. See [credentials.md](credentials.md#where-may-a-registry-lead)"
    ),
    "certs_dirs": "Directories with a directory for each registry that holds its certificates",
    "signature_policy": (
        "The file, in the form of containers-policy.json(5), that says which images may be used: "
        "[trust.md](trust.md). `auto`: the system's file. `off`: none. A user's value adds to the site's"
    ),
    "verifier_dir": (
        "A directory of programs that are asked about each image, and must all allow it: "
        "[trust.md](trust.md#a-programs-verdict). A user's value adds to the site's"
    ),
}


def plain(meaning: str) -> str:
    """*meaning* without Markdown's signs, for terminals and comments: a link is the name of the page."""
    return re.sub(r"\[[^]]*\]\(([^)#]*)[^)]*\)", _named, meaning).replace("`", "")


def _named(match: re.Match[str]) -> str:
    return f"docs/{match[1]}" if match[1] else "see docs/configuration.md"
