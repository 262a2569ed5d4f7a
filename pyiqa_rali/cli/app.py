"""Open a page in the browser that scores pictures and says why."""

import argparse
import threading

from pyiqa_rali.cli.arguments import CommandParser, add_reading_settings, reading_settings


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of `pyiqa-rali app`."""
    parser.add_argument('-m', '--metric', action='append', default=[], metavar='NAME', help='metric of the page, the first one '
                        'first; repeat it for more (default: rali-lite, rali-lite-v1, piqe)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export, for the first metric')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    parser.add_argument('--open', action='store_true', help='open the page in the browser')
    group = parser.add_argument_group('where it listens')
    group.add_argument('--host', default='127.0.0.1', help='another address than this computer alone, such as 0.0.0.0 for all '
                       'that reach it; there is no password')
    group.add_argument('--port', type=int, default=7860, help='(default: %(default)s; 0: any that is free)')
    limits = parser.add_rare_group('limits')
    limits.add_argument('--max-file-mb', type=int, default=64, metavar='N', help='of one file (default: %(default)s)')
    limits.add_argument('--max-pictures', type=int, default=1000, metavar='N', help='of one page (default: %(default)s)')
    limits.add_argument('--memory-mb', type=int, default=2048, metavar='N', help='of all files (default: %(default)s)')
    add_reading_settings(parser)
    more = parser.add_rare_group('measuring')
    more.add_argument('--measure', action='store_true', help='measure the time from the command to the first score, and how '
                      'long a slider takes, on one core')
    parser.add_examples(
        ('pyiqa-rali app --open', ''),
        ('pyiqa-rali app -m rali-lite -m niqe', 'two metrics side by side'),
        notes='Needs pip install pyiqa-rali[app]. Pictures stay in the memory of this process; nothing is fetched from '
              'elsewhere or sent there. Ctrl-C ends it.')


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or measure it.

    Returns:
        0; with --measure 1 when a time is longer than promised.

    Raises:
        OptionError, CheckpointError: an argument cannot be used; the message says why.
    """
    if args.measure:
        return _measure(args)
    from pyiqa_rali.app.albums import Albums, Limits
    from pyiqa_rali.app.metrics import PageMetrics, choices
    from pyiqa_rali.app.server import Address, launch
    from pyiqa_rali.core.memory import without_collections
    address, limits = Address(args.host, args.port), Limits(args.max_file_mb, args.max_pictures, args.memory_mb)
    metrics = PageMetrics(choices(args.metric, args.weights), args.device)
    with without_collections():
        metrics.load(metrics.labels[0])  # an error is told here, and not on the page
        server, url = launch(metrics, Albums(limits, reading_settings(args)), address)
    print(url, flush=True)
    if args.open:
        import webbrowser
        webbrowser.open(url)
    try:
        threading.Event().wait()
    finally:
        server.get_blocks().close(verbose=False)
    return 0


def _measure(args: argparse.Namespace) -> int:
    from pyiqa_rali.app.timing import as_text, measure
    found = measure(args.metric, args.weights, args.device)
    print(as_text(found))
    return 0 if found.in_time else 1
