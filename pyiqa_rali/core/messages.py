"""What is shown while the library works: nothing to callers from Python, lines and progress bars in the commands.

Modules log to `logging.getLogger(__name__)`, all below the logger 'pyiqa_rali'. Commands show everything logged at INFO or
above; so does a program with its own handler that sets this logger to INFO. Progress bars follow the same switch.
"""

import contextlib
import functools
import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

LOGGER = logging.getLogger('pyiqa_rali')


def are_shown() -> bool:
    """Whether messages of level INFO, and with them progress bars, are shown."""
    return LOGGER.isEnabledFor(logging.INFO)


@functools.cache
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log a warning only the first time that this process issues it: a run builds each of its tables several times."""
    logger.warning('%s', message)


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """Return tqdm's bar on stderr, which shows nothing unless messages are shown.

    Args:
        iterable: what is iterated over; None where `update` is called.
        options: of `tqdm.tqdm`, such as `desc` and `unit`; `disable` hides the bar in the commands too.
    """
    from tqdm import tqdm
    return tqdm(iterable, **{**options, 'disable': True if not are_shown() else options.get('disable', False)})


@contextlib.contextmanager
def messages_shown(on_stdout: bool = False) -> Iterator[None]:
    """Show plain messages while the block runs: those of a command.

    Args:
        on_stdout: show messages below WARNING on stdout, for commands whose output they are; the rest goes to stderr.
    """
    if any(isinstance(handler, _PlainLines) for handler in LOGGER.handlers):  # a command called by another one
        yield
        return
    handler, level, propagate = _PlainLines(on_stdout), LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate


class _PlainLines(logging.Handler):
    """Writes messages as they are, above a progress bar if there is one, to whatever the streams are at that moment."""

    def __init__(self, on_stdout: bool):
        super().__init__()
        self._on_stdout = on_stdout

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message; if the reader has closed our output, that is an error of the command, as with `print`."""
        from tqdm import tqdm
        stream = sys.stdout if self._on_stdout and record.levelno < logging.WARNING else sys.stderr
        tqdm.write(self.format(record), file=stream)
        stream.flush()


@contextlib.contextmanager
def bars_of_transformers() -> Iterator[None]:
    """Let the bars of transformers, for loading and writing weights, follow our switch; also a decorator of functions."""
    from transformers.utils import logging as theirs
    if are_shown() or not theirs.is_progress_bar_enabled():
        yield
        return
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    bars_of_the_hub = not are_progress_bars_disabled()  # those were switched along with them, which is undone here
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.enable_progress_bar()
        if not bars_of_the_hub:
            disable_progress_bars()
