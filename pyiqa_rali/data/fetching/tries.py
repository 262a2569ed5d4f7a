"""Tries: how long one may take, how often there is another, and in what words the last one's failure is told."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pyiqa_rali.core.errors import DataError, OptionError, first_line
from pyiqa_rali.data.addresses import without_secrets

Result = TypeVar('Result')
LARGEST = 1 << 30  # bytes of one picture
BLOCK = 1 << 20  # bytes that are read at once
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries; the pause doubles
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers of HTTP that another try may change
MEANINGS = {401: 'credentials are needed', 403: 'no permission', 404: 'not found', 410: 'not there any more'}
FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, ImportError)
FINAL_NAMES = ('NoCredentialsError', 'PartialCredentialsError', 'CredentialRetrievalError', 'DefaultCredentialsError',
               'OfflineModeIsEnabled')  # of libraries that may not be installed


@dataclass(frozen=True)
class FetchOptions:
    """How long, and how often, an address is tried.

    Attributes:
        timeout: seconds that one try for a picture may take; of a shard or list, seconds without a single byte.
        retries: how many more tries there are after one that failed for a reason that may pass.

    Raises:
        OptionError: a value that cannot be used.
    """

    timeout: float = 60.0
    retries: int = 3

    def __post_init__(self) -> None:
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise OptionError(f'timeout: {self.timeout!r} must be a number of seconds above 0.')
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise OptionError(f'retries: {self.retries!r} must be a whole number, at least 0.')


FETCHING = FetchOptions()


class FetchError(DataError):
    """What stands at an address cannot be fetched; the message is a reason without the address and without credentials."""


class Final(Exception):
    """A failure that another try would not change."""


class Busy(Exception):
    """A server asks to be asked later.

    Attributes:
        seconds: how much later; 0 where it does not say.
    """

    def __init__(self, reason: str, seconds: float = 0.0):
        super().__init__(reason)
        self.seconds = seconds


def tried(work: Callable[[], Result], address: str, options: FetchOptions) -> Result:
    """Do the work, again where it fails for a reason that may pass.

    Raises:
        FetchError: it failed for good, or too often.
    """
    pause = FIRST_PAUSE
    for left in range(options.retries, -1, -1):
        try:
            return work()
        except (FetchError, Final) as error:
            raise FetchError(without_secrets(first_line(error), address)) from None
        except Exception as error:  # of whichever library, and of its own kind
            reason, final = without_secrets(_reason(error), address), _is_final(error)
            if final or not left:
                tries = '' if final or not options.retries else f' ({options.retries + 1} tries)'
                raise FetchError(f'cannot be fetched: {reason}{tries}') from None  # the cause could show credentials
            time.sleep(min(max(pause, getattr(error, 'seconds', 0.0)), LONGEST_PAUSE))
            pause *= 2
    raise AssertionError('the last try returns or raises')


def in_time(work: Callable[[], Result], seconds: float) -> Result:
    """Return what the work returns, if it does so in time; otherwise its thread is abandoned.

    Raises:
        TimeoutError: it takes longer.
    """
    outcome: list[tuple[bool, Any]] = []

    def run() -> None:
        try:
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError
    done, value = outcome[0]
    if done:
        return value
    raise value


def _is_final(error: Exception) -> bool:
    status = _status(error)
    return isinstance(error, FINAL) or type(error).__name__ in FINAL_NAMES or (400 <= status < 500 and status not in BUSY)


def _status(error: BaseException) -> int:
    """Return the status of HTTP that a store has answered with, wherever its library keeps it; 0 where there is none."""
    response = getattr(error, 'response', None)
    fields = response.get('ResponseMetadata', {}) if isinstance(response, dict) else {}  # botocore's
    for value in (fields.get('HTTPStatusCode'), getattr(response, 'status_code', None),
                  *(getattr(error, name, None) for name in ('status_code', 'code', 'status'))):
        if str(value).isdigit():
            return int(str(value))
    if isinstance(error, OSError) and str(error).startswith('Forbidden'):  # all that gcsfs keeps of it
        return 403
    return _status(error.__cause__) if error.__cause__ is not None else 0


def _reason(error: Exception) -> str:
    """Return why a library failed, in one line; errors of the system say it in words of their own."""
    if isinstance(error, TimeoutError) or 'Timeout' in type(error).__name__:
        return 'no answer in time'
    if isinstance(error, FileNotFoundError):
        return 'not found'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = first_line(error)
    text = text if isinstance(error, Busy | OSError) else f'{type(error).__name__}: {text}'
    meaning = MEANINGS.get(_status(error))
    return f'{meaning} ({text})' if meaning else text
