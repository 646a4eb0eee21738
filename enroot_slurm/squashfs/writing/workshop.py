"""Images that are written at once: by one pool of threads, and all given up together."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from enroot_slurm.squashfs.writing.compressors import compressor_of
from enroot_slurm.squashfs.writing.thrift import Compressing
from enroot_slurm.squashfs.writing.writer import ImageWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from enroot_slurm.squashfs.options import SquashOptions
    from enroot_slurm.system.checksum import Checksum
    from enroot_slurm.system.publish import Draft

__all__ = ["Workshop"]


class Workshop:
    """Writes images with *options*, as a context manager; *processors* threads compress, if the options say no number.

    now    the time of an image, where the options have none
    epoch  SOURCE_DATE_EPOCH: the time of images and of all in them, where the options have none

    Raises: ConversionError, when a library that compresses is missing.
    """

    def __init__(self, options: SquashOptions, processors: int, *, now: int, epoch: int | None) -> None:
        compressor_of(options)  # now, for later is after the download
        self._options = options
        self._now = now if epoch is None else epoch
        self._epoch = epoch
        threads = options.processors or processors
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "squash")
        self._compressing = Compressing(options, threads)
        self._writers: set[ImageWriter] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def image(
        self, file: Draft, checksum: Checksum | None = None
    ) -> Iterator[tuple[ImageWriter, contextlib.ExitStack]]:
        """The writer of an image in *file*, and a stack that ends before it does; *checksum* becomes the file's."""
        image = ImageWriter(
            file,
            self._options,
            self._pool,
            self._threads,
            now=self._now,
            time=self._epoch,
            checksum=checksum,
            counted=self._compressing.counted,
        )
        with image as writer, self._begun(writer) as stack:
            yield writer, stack

    @contextlib.contextmanager
    def layer(self, file: Draft, checksum: Checksum) -> Iterator[tuple[ImageWriter, contextlib.ExitStack]]:
        """The same for a layer's image, which has no time of its own, and whose files keep theirs.

        *checksum* becomes that of the file.
        """
        image = ImageWriter(
            file,
            self._options.for_layers,
            self._pool,
            self._threads,
            checksum=checksum,
            counted=self._compressing.counted,
        )
        with image as writer, self._begun(writer) as stack:
            yield writer, stack

    @contextlib.contextmanager
    def _begun(self, writer: ImageWriter) -> Iterator[contextlib.ExitStack]:
        with contextlib.ExitStack() as stack:
            self._writers.add(writer)
            stack.callback(self._writers.discard, writer)
            if self._ended:  # it was begun while the others were ended
                writer.kill()
            yield stack

    @property
    def hint(self) -> str:
        """What a person should know of the time that compressing has taken up to now, or nothing."""
        return self._compressing.hint()

    def kill(self) -> None:
        """End all images that are being written; whoever writes gets ConversionError."""
        self._ended = True
        for each in tuple(self._writers):
            each.kill()
