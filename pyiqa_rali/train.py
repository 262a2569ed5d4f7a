"""`python -m pyiqa_rali.train -opt FILE`: run the training that an option file describes."""

import argparse
import sys

from pyiqa_rali.commands import exit_status

PROGRAM = 'pyiqa_rali.train'


def main(argv: list[str] | None = None) -> int:
    """Read the arguments and train.

    Args:
        argv: the arguments; None takes the process's own.

    Returns:
        The exit status: 0, 2 for options or data that cannot be used, 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    return exit_status(PROGRAM, lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Hand over to the pipeline, which is imported only now: it needs torch."""
    from pyiqa_rali.pipeline import train
    train(args.opt, args.auto_resume, args.launcher, [entry for entries in args.force_yml for entry in entries])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser, with pyiqa's own names for the arguments."""
    parser = argparse.ArgumentParser(prog=f'python -m {PROGRAM}', description='Train RALI as an option file describes: '
                                     'contrastive alignment, feature compression, scoring, export.')
    parser.add_argument('-opt', metavar='FILE', required=True, help='option file, such as options/rali.yml')
    parser.add_argument('--auto_resume', action='store_true', help='go on with an interrupted run of the same name')
    parser.add_argument('--launcher', choices=('none', 'pytorch'), default='none',
                        help='pytorch when torchrun starts this command on several GPUs or processes (default: none)')
    parser.add_argument('--force_yml', nargs='+', action='append', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of the file, such as align:lr=1e-5 manual_seed=3')
    return parser


if __name__ == '__main__':
    sys.exit(main())
