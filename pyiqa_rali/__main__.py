"""`python -m pyiqa_rali SUBCOMMAND`, also installed as `pyiqa-rali`: dispatch to `pyiqa_rali.cli`."""

import importlib
import sys

from pyiqa_rali import __version__
from pyiqa_rali.cli import EXIT_USER_ERROR, exit_status
from pyiqa_rali.cli.arguments import CommandParser, add_log_format
from pyiqa_rali.core.errors import did_you_mean
from pyiqa_rali.core.memory import keep_freed_memory

PROGRAM = 'pyiqa-rali'

# name: (module of pyiqa_rali.cli, the first line of its docstring); a module is imported when its command is run.
COMMANDS = {
    'score': ('score', 'Score images: files, folders, globs, lists and tar shards.'),
    'select': ('select', 'Select the images of a table of scores that clear a bar: a list, links, copies or new shards.'),
    'info': ('info', 'Show what a checkpoint says about itself, and what it is asked.'),
    'use': ('use', 'Make your own export the default weights of the metric "rali".'),
    'explain': ('explain', 'Explain scores: nearest texts, distortions, basis, uncertainty.'),
    'calibrate': ('calibrate', 'Calibrate intervals around the scores of a checkpoint.'),
    'app': ('app', 'Open a page in the browser that scores pictures and says why.'),
    'add-bank': ('add_bank', 'Add a text bank to a checkpoint, so that it can explain its scores.'),
    'add-diagnosis': ('add_diagnosis', 'Add votes, levels and aspects, fitted on training pictures, to a checkpoint.'),
    'evaluate-explanations': ('evaluate_explanations', 'Measure explanations on pictures whose distortions are known.'),
    'evaluate-aspects': ('evaluate_aspects', 'Measure votes and aspects beside what people said of photographs.'),
    'adapt': ('adapt', 'Refresh the basis of a checkpoint for a new domain, from images without labels.'),
    'fit-map': ('fit_map', 'Fit the shares of maps of quality, from photographs without labels.'),
    'evaluate-maps': ('evaluate_maps', 'Measure maps of quality on photographs of which one half is distorted.'),
    'push': ('push', 'Push a checkpoint to the hub, with a generated model card.'),
    'evaluate-intervals': ('evaluate_intervals', 'Measure the intervals of a checkpoint on data sets with human scores.'),
    'evaluate-basis': ('evaluate_basis', 'Measure bases that follow the images, and scores blended with positions.'),
    'convert': ('convert', 'Convert the released RALI folder into one checkpoint file.'),
    'export-onnx': ('export_onnx', 'Export a metric, with its preprocessing, as ONNX, and check it.'),
    'describe': ('describe', 'Let a reasoning model describe and rate images.'),
    'write-texts': ('write_texts', 'Let a reasoning model write the texts that RALI is aligned with.'),
    'measure': ('measure', 'Measure focus, noise, exposure and more on pictures.'),
    'measure-texts': ('measure_texts', 'Write texts on photographs from what is measured on them.'),
    'make-dataset': ('make_dataset', 'Make a data set from photographs: pictures, labels, texts.'),
    'prepare-people': ('prepare_people', 'Write tables and texts for public images that people scored, from clones.'),
    'evaluate': ('evaluate', 'Evaluate metrics on data sets with human scores.'),
    'analyse': ('analyse', 'Analyse trained models: attention, reasoning, domains and more.'),
    'ablate': ('ablate', 'Train variants for several seeds and splits, and compare them.'),
    'carry': ('carry', 'Train several ways to teach, and test which carry across data sets.'),
    'cascade': ('cascade', 'Fit when a fast metric should ask a slow one, and measure accuracy against cost.'),
    'benchmark': ('benchmark', 'Measure time, memory and scores beside the release and others.'),
    'plan-scale': ('plan_scale', 'Measure and simulate what a large job takes, and where its bottleneck is.'),
    'report': ('report', 'Make one HTML page and a Markdown file about the results of runs.'),
    'protocol': ('protocol', 'Test the light model: seeds, splits, unseen types, baselines.'),
}
KEEP_MEMORY = ('ablate', 'carry', 'measure', 'measure-texts')  # the same large arrays for every picture or step


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the arguments; None takes the process's own.

    Returns:
        The exit status: the subcommand's, 2 for wrong usage or input, 130 after Ctrl-C.
    """
    own_process = argv is None
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')  # file names need not be valid UTF-8
    chosen = argv[0] if argv else ''
    if chosen and not chosen.startswith('-') and chosen not in COMMANDS:
        print(f'{PROGRAM}: error: there is no subcommand "{chosen}".{did_you_mean(chosen, COMMANDS)} '
              f'The subcommands are {", ".join(COMMANDS)}.', file=sys.stderr)
        return EXIT_USER_ERROR
    parser = build_parser(chosen)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 0
    if own_process and args.command in KEEP_MEMORY:
        keep_freed_memory()
    return exit_status(f'{PROGRAM} {args.command}', lambda: command_module(args.command).run(args),
                       log_format=args.log_format)


def build_parser(chosen: str) -> CommandParser:
    """Return the parser with every subcommand's name and line, and the arguments of the chosen one only."""
    parser = CommandParser(prog=PROGRAM, description='RALI for pyiqa: no-reference image quality assessment.')
    parser.add_argument('--version', action='version', version=f'{PROGRAM} {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='SUBCOMMAND', title='subcommands')
    for name, (_, line) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=line, description=line)
        if name == chosen:
            command_module(name).add_arguments(subparser)
            add_log_format(subparser)
    parser.add_examples(('pyiqa-rali score photo.jpg', ''), ('pyiqa-rali SUBCOMMAND --help', ''),
                        ('python -m pyiqa_rali.train -opt FILE', 'training; see its own --help'))
    return parser


def command_module(name: str):
    """Import and return the module of a subcommand."""
    return importlib.import_module(f'pyiqa_rali.cli.{COMMANDS[name][0]}')


if __name__ == '__main__':
    sys.exit(main())
