"""What is shown while the library works: nothing to callers from Python, lines and progress bars in the commands.

Modules log to `logging.getLogger(__name__)`, all below the logger 'pyiqa_rali'. Commands show everything logged at INFO or
above; so does a program with its own handler that sets this logger to INFO. Progress bars follow the same switch. With
`--log-format json`, everything that a command says on stderr is one JSON object a line, progress included.
"""

import contextlib
import functools
import io
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

LOGGER = logging.getLogger('pyiqa_rali')
LOG_FORMATS = TEXT, JSON = 'text', 'json'
SECONDS_BETWEEN_RECORDS = 30.0  # of progress


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
    if isinstance(sys.stderr, _Records):
        options |= {'file': io.StringIO(), 'mininterval': SECONDS_BETWEEN_RECORDS, 'disable': bool(options.get('disable'))}
        return _logged_bar()(iterable, **{**options, 'disable': options['disable'] or not are_shown()})
    if not sys.stderr.isatty():  # a log file: a state now and then, instead of one in every tenth of a second
        options = {'mininterval': SECONDS_BETWEEN_RECORDS, **options}
    return tqdm(iterable, **{**options, 'disable': True if not are_shown() else options.get('disable', False)})


@functools.cache
def _logged_bar() -> type:
    """Return a class of bars that log their state now and then, and draw nothing."""
    from tqdm import tqdm

    class LoggedBar(tqdm):
        """A bar for structured logs."""

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            """Log how far the work is."""
            facts = self.format_dict
            log_progress(LOGGER, str(self.desc or 'progress').rstrip(': '), facts['n'], facts['total'], facts['elapsed'],
                         str(facts['unit']).strip(), facts['initial'])

    return LoggedBar


def log_progress(logger: logging.Logger, what: str, done: int, total: int | None, seconds: float, unit: str = 'image',
                 initial: int = 0, told: str = '') -> None:
    """Log how far a job is, with its speed and the time that is left.

    Args:
        logger: of the module that does the work.
        what: the job.
        done: how much is done.
        total: of how much; None where that is not known.
        seconds: since the start.
        unit: what is counted, in the singular.
        initial: how much an earlier run had done.
        told: what else there is to say.
    """
    rate = max(done - initial, 0) / max(seconds, 1e-9)
    left = None if total is None or not rate else max(total - done, 0) / rate
    text = f'{what}: {done}' + ('' if total is None else f' of {total}') + f' {unit}s, {rate:.1f} {unit}s/s'
    text += ('' if left is None else f', {time_of(left)} left') + (f', {told}' if told else '')
    logger.info('%s', text, extra={'progress': {
        'what': what, 'done': done, 'total': total, 'unit': unit, 'per_second': round(rate, 3), 'seconds': round(seconds, 1),
        'seconds_left': None if left is None else round(left, 1)}})


def time_of(seconds: float) -> str:
    """Return a duration as a clock shows it.

    Example:
        >>> time_of(59), time_of(3723)
        ('0:59', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'


@contextlib.contextmanager
def messages_shown(on_stdout: bool = False) -> Iterator[None]:
    """Show plain messages while the block runs: those of a command.

    Args:
        on_stdout: show messages below WARNING on stdout, for commands whose output they are; the rest goes to stderr.
    """
    if any(isinstance(handler, _PlainLines | _JsonLines) for handler in LOGGER.handlers):  # a command called by another one
        yield
        return
    handler: logging.Handler = _JsonLines() if isinstance(sys.stderr, _Records) else _PlainLines(on_stdout)
    level, propagate = LOGGER.level, LOGGER.propagate
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
def stderr_as(log_format: str) -> Iterator[None]:
    """Let everything on stderr be one JSON object a line while the block runs, or leave it as it is.

    Args:
        log_format: 'json' or 'text'.
    """
    before = sys.stderr
    if log_format != JSON or isinstance(before, _Records):
        yield
        return
    records = _Records(before)
    sys.stderr = records
    try:
        yield
    finally:
        records.end_line()
        sys.stderr = before


def tell_error(text: str, **facts: Any) -> None:
    """Write what went wrong to stderr.

    Args:
        text: one line.
        facts: further values of its record, where stderr is structured.
    """
    if isinstance(sys.stderr, _Records):
        sys.stderr.add('error', text, **facts)
    else:
        sys.stderr.write(f'{text}\n')


class _Records(io.TextIOBase):
    """Stands for stderr: each line that is printed becomes a JSON object, and what a bar would overwrite is left out."""

    def __init__(self, stream: Any):
        super().__init__()
        self._stream: IO[str] = stream
        self._line = ''

    def write(self, text: str) -> int:
        """Take a text, and write a record for each line that it ends."""
        *lines, self._line = (self._line + text).split('\n')
        for line in lines:
            self._add_line(line)
        self._line = self._line.rpartition('\r')[2] if '\r' in self._line else self._line
        return len(text)

    def end_line(self) -> None:
        """Write a line that has no end."""
        line, self._line = self._line, ''
        self._add_line(line)

    def _add_line(self, line: str) -> None:
        shown = line.rstrip().rpartition('\r')[2]
        if shown.strip():
            self.add('info', shown)

    def add(self, level: str, message: str, **facts: Any) -> None:
        """Write a record."""
        now = time.time()
        moment = time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now)) + f'.{int(now % 1 * 1000):03d}Z'
        self._stream.write(json.dumps({'time': moment, 'level': level, 'message': message, **facts}, default=str) + '\n')
        self._stream.flush()

    def flush(self) -> None:
        """Flush what is behind it."""
        self._stream.flush()

    def isatty(self) -> bool:
        """It is none."""
        return False

    def fileno(self) -> int:
        """Return that of what is behind it."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    def reconfigure(self, **options: Any) -> None:
        """Leave it as it is: JSON is ASCII here."""


class _JsonLines(logging.Handler):
    """Writes messages as records of stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message, with its progress if it has any."""
        if isinstance(sys.stderr, _Records):
            progress = getattr(record, 'progress', None)
            sys.stderr.add(record.levelname.lower(), record.getMessage(), logger=record.name,
                           **({} if progress is None else {'progress': progress}))


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
