"""Pillow's process-wide settings: whatever a program has set, pictures are decoded by one rule in any number of threads."""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

from PIL import Image
from PIL import ImageFile as PillowFile

PIXEL_LIMIT = 178_956_970  # where Pillow itself stops: pixels of 512 MiB, decoded


class _Pillow:
    """Pillow's process-wide settings while pictures are decoded; the last of several threads restores them.

    Truncated files are rejected, whatever other modules have set: one of pyiqa's data set modules switches Pillow's
        `LOAD_TRUNCATED_IMAGES` on for the whole process when it is imported, and the missing part of a file would then be
        scored, or trained on, as gray. Warnings are neither shown nor raised: a picture's score must not depend on a user's
        filters for warnings.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._before: tuple[bool, int | None] = (False, None)
        self._pixel_limit = 0
        self._filters = warnings.catch_warnings()

    def enter(self, pixel_limit: int) -> None:
        """Set what decoding needs."""
        with self._lock:
            if not self._inside:
                self._before = PillowFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter('ignore')
                self._pixel_limit = 0
            PillowFile.LOAD_TRUNCATED_IMAGES = False
            self._pixel_limit = max(self._pixel_limit, pixel_limit)
            Image.MAX_IMAGE_PIXELS = -(-self._pixel_limit // 2)  # Pillow refuses more than twice as many
            self._inside += 1

    def leave(self) -> None:
        """Restore what was there, if no other thread is decoding."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                PillowFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = self._before
                self._filters.__exit__(None, None, None)

    def forget_other_threads(self) -> None:
        """Restore what was there in a process that was forked while other threads, which it does not have, were decoding."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 1
            self.leave()


_PILLOW = _Pillow()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_PILLOW.forget_other_threads)


@contextlib.contextmanager
def decoding(pixel_limit: int = PIXEL_LIMIT) -> Iterator[None]:
    """Let Pillow decode by this package's rule: no truncated files, no more pixels than the limit, no warnings."""
    _PILLOW.enter(pixel_limit)
    try:
        yield
    finally:
        _PILLOW.leave()
