"""Subcommands of `python -m pyiqa_rali`: one module each, with `add_arguments(parser)` and `run(args) -> int`."""

import os
import sys
from collections.abc import Callable

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError

USER_ERRORS = (OptionError, DataError, CheckpointError, OSError)
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def exit_status(program: str, work: Callable[[], int | None]) -> int:
    """Run a command and turn what the user can mend into one line on stderr.

    Args:
        program: what the line starts with.
        work: the command; returns its exit status, None for 0.

    Returns:
        What `work` returned, 2 after an error that the user can mend, 130 after Ctrl-C. Other errors keep their
        traceback.
    """
    try:
        status = work() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f'{program}: interrupted', file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except USER_ERRORS as error:
        print(f'{program}: error: {error}', file=sys.stderr)
        return EXIT_USER_ERROR
    return status
