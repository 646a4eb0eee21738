"""Who writes squashfs images: this process, or mksquashfs where that has something that we have not."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, Self

from enroot_slurm.errors import ConversionError
from enroot_slurm.rootfs.sink import Sink
from enroot_slurm.rootfs.tar_writer import TarWriter
from enroot_slurm.squashfs.mksquashfs import Mksquashfs
from enroot_slurm.squashfs.writing.compressors import CannotCompress
from enroot_slurm.squashfs.writing.writer import ImageWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from enroot_slurm.settings.config import Config
    from enroot_slurm.squashfs.options import SquashOptions

__all__ = ["Squash", "Squasher"]


class Squash(Sink, Protocol):
    """An image that is being written."""

    def finish(self, inodes: int) -> object:
        """Write the rest; there must be *inodes* inodes.  Raises: ConversionError, StorageError, IntegrityError."""


class Squasher:
    """Writes images, several at once if need be, as a context manager.

    now    the time of an image, where the options have none
    epoch  SOURCE_DATE_EPOCH: the time of images and of all in them, where the options have none
    """

    def __init__(self, config: Config, *, now: int, epoch: int | None) -> None:
        self._config = config
        self._now = now if epoch is None else epoch
        self._epoch = epoch
        self._pool = ThreadPoolExecutor(config.squash_options.processors or config.max_processors, "squash")
        self._running: set[Mksquashfs | ImageWriter] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def image(
        self, path: Path, options: SquashOptions, *, layer: bool = False, share: int = 1
    ) -> Iterator[tuple[Squash, contextlib.ExitStack]]:
        """An image at *path*, and a stack that ends before it; of *share* programs each has its part of the memory.

        A *layer*'s image has no time of its own, and its files keep theirs.
        """
        now, epoch = (0, None) if layer else (self._now, self._epoch)
        try:
            writer = ImageWriter(path, options, self._pool, now=now, time=epoch)
        except CannotCompress as reason:
            try:
                Mksquashfs.program()
            except ConversionError as missing:
                raise ConversionError(f"{reason}, and {missing}", hint=missing.hint) from None
            with self._program(path, options, epoch, share) as program:
                yield program
        else:
            with writer, contextlib.ExitStack() as stack:
                self._begin(writer, stack)
                yield writer, stack

    def kill(self) -> None:
        """End all images that are being written; whoever writes gets an error."""
        self._ended = True
        for each in tuple(self._running):
            each.kill()

    def _begin(self, image: Mksquashfs | ImageWriter, stack: contextlib.ExitStack) -> None:
        self._running.add(image)
        stack.callback(self._running.discard, image)
        if self._ended:  # it was begun while the others were ended
            image.kill()

    @contextlib.contextmanager
    def _program(
        self, path: Path, options: SquashOptions, time: int | None, share: int
    ) -> Iterator[tuple[Squash, contextlib.ExitStack]]:
        memory = self._config.squash_memory // share
        with (
            Mksquashfs(path, options, processors=self._config.max_processors, memory=memory, time=time) as program,
            contextlib.ExitStack() as stack,
        ):
            self._begin(program, stack)
            try:
                yield _Archived(program), stack
            except BrokenPipeError:
                raise program.failure() from None


class _Archived(TarWriter):
    """Feeds *program* with an archive."""

    def __init__(self, program: Mksquashfs) -> None:
        super().__init__(program.stdin)
        self._program = program

    def finish(self, inodes: int) -> object:
        """End the archive, and wait for the image."""
        self.close()
        return self._program.finish(inodes)
