"""What RALI costs against a reasoning model: parameters, time and memory, in one run."""

import argparse

from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('--rali', nargs='+', default=['rali-lite'], metavar='NAME|FILE',
                        help='metrics of pyiqa, or exports of RALI (default: rali-lite)')
    parser.add_argument('--model', required=True, metavar='FOLDER_OR_REPO', help='the reasoning model')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the table and the picture')
    parser.add_argument('--image', required=True, metavar='FILE', help='what is scored; reading it is part of the time')
    parser.add_argument('--repeats', type=int, default=5, metavar='N', help='timed calls, after one that is not (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='of torch (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.epilog = 'Each metric runs in a process of its own, one picture at a time; the model scores by the expectation.'


def run(args: argparse.Namespace) -> int:
    """Measure, and write costs.csv, results.json and efficiency.png.

    Raises:
        OptionError: a number that is not positive.
        DataError: a metric failed.
        CheckpointError: the weights of a metric are not there.
    """
    from pathlib import Path

    from tqdm import tqdm

    from pyiqa_rali.figures.analyses import draw_costs
    from pyiqa_rali.studies.analyses.efficiency import COSTS, PAPER, cost_of, weights_of, with_shares
    from pyiqa_rali.studies.analyses.folder import AnalysisFolder
    for name in ('repeats', 'threads'):
        if getattr(args, name) < 1:
            raise OptionError(f'--{name}: {getattr(args, name)} must be 1 at least.')
    if not Path(args.image).is_file():
        raise OptionError(f'--image: {args.image} is not a file.')
    wanted = [(Path(each).stem, 'rali', each) if Path(each).suffix else (each, each, None) for each in args.rali]
    wanted.append(('reasoning model', 'rali-reasoning', args.model))
    folder = AnalysisFolder(args.out, 'efficiency', {name: getattr(args, name) for name in (
        'rali', 'model', 'image', 'repeats', 'threads', 'device')})
    folder.check_weights(weights_of(wanted))
    rows = with_shares([cost_of(*each, args.image, args.repeats, args.threads, args.device)
                        for each in tqdm(wanted, desc='efficiency', unit='metric')])
    shown = [{key: value for key, value in row.items() if key != 'seconds'} for row in rows]
    folder.table('costs', shown)
    folder.results({'metrics': rows, 'paper': PAPER})
    draw_costs(rows, dict(zip(COSTS, ('parameters', 'ms for one image', 'peak memory of the process, MB'), strict=True)),
               folder.picture('efficiency'))
    for row in rows:
        print(f'{row["metric"]:18} {row["parameters"] / 1e6:10.2f} M parameters ({row["parameters_share"]:.3f}), '
              f'{row["median_ms"]:9.1f} ms ({row["median_ms_share"]:.3f}), {row["peak_mb"]:7.0f} MB '
              f'({row["peak_mb_share"]:.3f})')
    print(f'The paper gives, for RALI over Q-Insight 7B at batch 16 on an A100: {PAPER["parameters"]:.0%} of the parameters, '
          f'{PAPER["median_ms"]:.1%} of the time, {PAPER["peak_mb"]:.1%} of the memory.')
    print(f'{folder.root}: costs.csv, results.json, efficiency.png')
    return 0
