"""Subcommands of `python -m pyiqa_rali`: one module each, with `add_arguments(parser)` and `run(args) -> int`."""

import os
import sys
import traceback
from collections.abc import Callable

from pyiqa_rali.core.errors import CheckpointError, DataError, OptionError, first_line
from pyiqa_rali.core.messages import JSON, TEXT, messages_shown, stderr_as, tell_error

USER_ERRORS = (OptionError, DataError, CheckpointError, OSError)
EXIT_USER_ERROR = 2
EXIT_FAULT = 1
EXIT_INTERRUPTED = 130


def exit_status(program: str, work: Callable[[], int | None], messages_on_stdout: bool = False, log_format: str = TEXT) -> int:
    """Run a command and turn what the user can fix into one line on stderr.

    Args:
        program: the beginning of the line.
        work: the command; returns its exit status, None for 0.
        messages_on_stdout: show the library's messages on stdout instead of stderr, because they are this command's output.
        log_format: 'json' makes everything on stderr one JSON object a line, the library's messages among them.

    Returns:
        What `work` returned, 2 after an error that the user can fix, 130 after Ctrl-C. Other errors keep their
        traceback, in JSON within the record, with status 1.
    """
    with stderr_as(log_format):
        try:
            with messages_shown(messages_on_stdout):
                status = work() or 0
            sys.stdout.flush()
        except KeyboardInterrupt:
            tell_error(f'{program}: interrupted')
            return EXIT_INTERRUPTED
        except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except USER_ERRORS as error:
            tell_error(f'{program}: error: {error}')
            return EXIT_USER_ERROR
        except Exception as error:
            if log_format != JSON:
                raise
            tell_error(f'{program}: {type(error).__name__}: {first_line(error)}', traceback=traceback.format_exc())
            return EXIT_FAULT
    return status
