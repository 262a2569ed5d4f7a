"""`python -m pyiqa_rali.train -opt FILE`: run the training that an option file describes."""

import argparse
import json
import sys
from typing import Any

from pyiqa_rali.cli import exit_status
from pyiqa_rali.cli.arguments import CommandParser, add_log_format, add_option_file
from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.memory import keep_freed_memory
from pyiqa_rali.core.options import plain, values_of

PROGRAM = 'pyiqa_rali.train'
KINDS = ('RALI', 'GRPO', 'SFT', 'RACT', 'CHAIN')


def main(argv: list[str] | None = None) -> int:
    """Read the arguments and train.

    Args:
        argv: the arguments; None takes the process's own.

    Returns:
        The exit status: 0, 2 for options or data that cannot be used, 130 after Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    if argv is None:
        keep_freed_memory()
    return exit_status(PROGRAM, lambda: run(args), messages_on_stdout=True, log_format=args.log_format)


def run(args: argparse.Namespace) -> None:
    """Run the training that the file's `model_type` names; it is imported only now, because it needs torch."""
    kind = values_of(args.opt, args.force_yml).get('model_type', 'RALI')
    if kind == 'RALI':
        from pyiqa_rali.training.rali.run import train
        print_results(train(args.opt, args.auto_resume, args.launcher, args.force_yml))
    elif kind == 'GRPO':
        from pyiqa_rali.training.vlm.grpo import train_grpo
        print_results(train_grpo(args.opt, args.auto_resume, args.force_yml))
    elif kind == 'SFT':
        from pyiqa_rali.training.vlm.sft import train_sft
        print_results(train_sft(args.opt, args.auto_resume, args.force_yml))
    elif kind == 'RACT':
        from pyiqa_rali.training.vlm.ract import run_ract
        print_results(run_ract(args.opt, args.auto_resume, args.force_yml))
    elif kind == 'CHAIN':
        from pyiqa_rali.studies.chain.run import run_chain
        print_results(run_chain(args.opt, args.auto_resume, args.force_yml))
    else:
        raise OptionError(f'model_type: "{kind}" is not one of {", ".join(KINDS)}.{did_you_mean(kind, KINDS)}')


def print_results(results: Any) -> None:
    """Print the results as JSON; processes and stages without results print nothing."""
    if getattr(results, 'export', results) is not None:
        print(json.dumps(plain(results), indent=2))


def build_parser() -> CommandParser:
    """Return the parser, with pyiqa's own names for the arguments."""
    parser = CommandParser(prog=f'python -m {PROGRAM}', description='Train as an option file describes: RALI (contrastive '
                           'alignment, compression, scoring), a reasoning model (GRPO, SFT, RACT), or the whole chain.')
    add_option_file(parser, example='options/rali.yml', change='align:lr=1e-5 manual_seed=3')
    parser.add_argument('--auto_resume', action='store_true', help='resume an interrupted run of the same name')
    parser.add_argument('--launcher', choices=('none', 'pytorch'), default='none',
                        help='pytorch when torchrun starts this command on several GPUs or processes (default: none)')
    add_log_format(parser)
    parser.add_examples(
        ('python -m pyiqa_rali.train -opt options/demo.yml', 'minutes on a CPU'),
        ('python -m pyiqa_rali.train -opt options/rali.yml --force_yml align:lr=1e-5 manual_seed=3', ''),
        ('python -m pyiqa_rali.train -opt options/rali.yml --auto_resume', ''),
        ('torchrun --nproc_per_node 8 -m pyiqa_rali.train -opt options/rali.yml --launcher pytorch', ''))
    return parser


if __name__ == '__main__':
    sys.exit(main())
