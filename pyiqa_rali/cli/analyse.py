"""Analyse trained models: attention, reasoning, domains and more."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyiqa_rali.cli.arguments import CommandParser, add_model, add_model_settings, check_positive, model_settings
from pyiqa_rali.core.errors import OptionError

if TYPE_CHECKING:
    from pyiqa_rali.studies.analyses.folder import AnalysisResult

GOES_ON = 'An analysis that was stopped continues when it is started again with the same arguments.'


@dataclass
class Kind:
    """One kind of analysis.

    Attributes:
        line: what it asks.
        add: declares its arguments.
        run: calls the analysis.
        lines: what is printed of its result.
    """

    line: str
    add: Callable[[CommandParser], None]
    run: Callable[[argparse.Namespace], 'AnalysisResult']
    lines: Callable[['AnalysisResult'], list[str]]


def add_arguments(parser: CommandParser) -> None:
    """Declare the kinds and the arguments of each."""
    kinds = parser.add_subparsers(dest='kind', metavar='KIND', title='kinds', required=True)
    for name, kind in KINDS.items():
        kind.add(kinds.add_parser(name, help=kind.line, description=kind.line))
    parser.add_examples(
        ('pyiqa-rali analyse attention photos/ --model MODEL --out experiments/attention', ''),
        ('pyiqa-rali analyse teachers --help', ''), notes=GOES_ON)


def run(args: argparse.Namespace) -> int:
    """Run one analysis, and print what it found out and where it is saved.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    kind = KINDS[args.kind]
    found = kind.run(args)
    print('\n'.join([*kind.lines(found), f'{found.root}: {", ".join(found.files)}']))
    return 0


def _add_out(parser: argparse.ArgumentParser, with_seed: bool = True) -> None:
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for tables, results and the figure')
    parser.add_argument('--limit', type=int, metavar='N', help='at most this many images of each data set, drawn by the seed')
    if with_seed:
        parser.add_argument('--seed', type=int, default=0, help='of all draws (default: %(default)s)')


def _add_sections(parser: argparse.ArgumentParser, default: list[str] | None = None) -> None:
    parser.add_argument('-opt', metavar='FILE', required=True, help='option file with the data sets, such as options/rali.yml')
    parser.add_argument('--sections', nargs='+', metavar='SECTION', default=default, required=default is None,
                        help='which of its data sets' + (f' (default: {" ".join(default)})' if default else ''))


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')


def _add_attention(parser: CommandParser) -> None:
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    add_model(parser)
    _add_out(parser, with_seed=False)
    add_model_settings(parser)
    parser.add_examples(('pyiqa-rali analyse attention photos/ --model MODEL --limit 50 --out experiments/attention', ''),
                        notes=GOES_ON)


def _attention(args: argparse.Namespace) -> 'AnalysisResult':
    from pyiqa_rali.studies.analyses.attention import analyse_attention
    check_positive(args, 'limit')
    return analyse_attention(args.images, model_settings(args), args.out, args.limit)


def _attention_lines(found: 'AnalysisResult') -> list[str]:
    values = found.results
    both = values['reasoning_and_visual']
    return [f'attention of the rating over {values["layers"]} layers, mean over {values["images"]} images:',
            *(f'  {part:10}{share:7.1%}   {values["tokens"][part]:7.1f} tokens' for part, share in values['shares'].items()),
            f'of what reasoning and picture get together: reasoning {both["reasoning"]:.1%}, picture {both["visual"]:.1%}']


def _add_reasoning(parser: CommandParser) -> None:
    _add_sections(parser, ['test'])
    add_model(parser)
    _add_out(parser, with_seed=False)
    add_model_settings(parser)
    parser.add_examples(
        ('pyiqa-rali analyse reasoning -opt options/rali.yml --model MODEL --limit 200 --out reasoning', ''),
        notes='The score is the expectation over the digits of the rating. Off: the answer follows an empty reasoning. Other: '
              f'each image with the reasoning on one other image. {GOES_ON}')


def _reasoning(args: argparse.Namespace) -> 'AnalysisResult':
    from pyiqa_rali.studies.analyses.reasoning import analyse_reasoning
    check_positive(args, 'limit')
    if len(args.sections) != 1:
        raise OptionError(f'--sections: {" ".join(args.sections)}: one data set at a time; give another --out for the next.')
    return analyse_reasoning(args.opt, args.sections[0], model_settings(args), args.out, args.limit)


def _reasoning_lines(found: 'AnalysisResult') -> list[str]:
    return [f'reasoning {row["condition"]:9} PLCC {row["plcc_mos"]:6.3f}  SRCC {row["srcc_mos"]:6.3f} with MOS,  PLCC '
            f'{row["plcc_on"]:6.3f} with on' for row in found.tables['table']]


def _add_domains(parser: CommandParser) -> None:
    _add_sections(parser)
    parser.add_argument('--checkpoint', required=True, metavar='FILE', help='an export of RALI, for the aligned embeddings')
    _add_out(parser)
    parser.add_argument('--permutations', type=int, default=500, metavar='N', help='of the test (default: %(default)s)')
    _add_device(parser)
    parser.add_examples(
        ('pyiqa-rali analyse domains -opt FILE --sections train test --checkpoint FILE --out domains', ''),
        notes='Visual features are those of the image encoder that the option file starts from, before alignment; texts are '
              f"the first of each image, by the option file's text encoder as it is before training. {GOES_ON}")


def _domains(args: argparse.Namespace) -> 'AnalysisResult':
    from pyiqa_rali.studies.analyses.domains import analyse_domains
    check_positive(args, 'limit', 'permutations')
    return analyse_domains(args.opt, args.sections, args.checkpoint, args.out, args.limit, args.seed, args.permutations,
                           args.device)


def _domains_lines(found: 'AnalysisResult') -> list[str]:
    return [f'{row["space"]:19} {row["first"]} | {row["second"]}: MMD2 {row["mmd2"]:7.4f} (p {row["p_value"]:.3f}), '
            f'linear accuracy {row["accuracy"]:.3f}' for row in found.tables['distances']]


def _add_teachers(parser: CommandParser) -> None:
    _add_sections(parser, ['test'])
    parser.add_argument('--checkpoints', nargs='+', required=True, metavar='[NAME=]FILE',
                        help='exports of RALI, each aligned with texts of another teacher')
    _add_out(parser)
    _add_device(parser)
    parser.add_examples(
        ('pyiqa-rali analyse teachers -opt options/rali.yml --checkpoints A=a.pth B=b.pth --out teachers', ''),
        notes=GOES_ON)


def _teachers(args: argparse.Namespace) -> 'AnalysisResult':
    from pyiqa_rali.studies.analyses.teachers import analyse_teachers
    check_positive(args, 'limit')
    return analyse_teachers(args.opt, args.sections, named_checkpoints(args.checkpoints), args.out, args.limit, args.seed,
                            args.device)


def _teachers_lines(found: 'AnalysisResult') -> list[str]:
    return [f'{row["dataset"]}: {row["first"]} | {row["second"]}: PLCC {row["plcc"]:.3f}  SRCC {row["srcc"]:.3f}'
            + (f'; their PLCC with MOS differ by {row["plcc_difference"]:.3f}' if row['plcc_difference'] != '' else '')
            for row in found.tables['table']]


def named_checkpoints(given: list[str]) -> dict[str, str]:
    """Return path by name; a checkpoint without a name is called by its run's folder.

    Raises:
        OptionError: fewer than two, or two of one name.
    """
    pairs = [each.split('=', 1) if '=' in each else [_run_name(Path(each)), each] for each in given]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or len(names) < 2:
        raise OptionError(f'--checkpoints: {", ".join(names)}: must be at least two, with different names; give them as '
                          'NAME=FILE.')
    return dict(pairs)


def _run_name(path: Path) -> str:
    return path.parent.parent.name if path.parent.name == 'models' else path.stem


def _add_efficiency(parser: CommandParser) -> None:
    parser.add_argument('--rali', nargs='+', default=['rali-lite'], metavar='NAME|FILE',
                        help='metrics of pyiqa, or exports of RALI (default: rali-lite)')
    parser.add_argument('--model', required=True, metavar='FOLDER_OR_REPO', help='the reasoning model')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the table and the figure')
    parser.add_argument('--image', required=True, metavar='FILE', help='what is scored; reading it is part of the time')
    parser.add_argument('--repeats', type=int, default=5, metavar='N', help='timed calls, after one that is not (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, metavar='N', help='of torch (default: %(default)s)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: %(default)s)')
    parser.add_examples(('pyiqa-rali analyse efficiency --model MODEL --image photo.jpg --out experiments/efficiency', ''),
                        notes='Each metric runs in a process of its own, one picture at a time; the model scores by the '
                              'expectation.')


def _efficiency(args: argparse.Namespace) -> 'AnalysisResult':
    from pyiqa_rali.studies.analyses.efficiency import analyse_efficiency
    check_positive(args, 'repeats', 'threads')
    return analyse_efficiency(args.rali, args.model, args.image, args.out, args.repeats, args.threads, args.device)


def _efficiency_lines(found: 'AnalysisResult') -> list[str]:
    paper = found.results['paper']
    return [*(f'{row["metric"]:18} {row["parameters"] / 1e6:10.2f} M parameters ({row["parameters_share"]:.3f}), '
              f'{row["median_ms"]:9.1f} ms ({row["median_ms_share"]:.3f}), {row["peak_mb"]:7.0f} MB '
              f'({row["peak_mb_share"]:.3f})' for row in found.tables['costs']),
            f'The paper gives, for RALI over Q-Insight 7B at batch 16 on an A100: {paper["parameters"]:.0%} of the parameters, '
            f'{paper["median_ms"]:.1%} of the time, {paper["peak_mb"]:.1%} of the memory.']


def _add_levels(parser: CommandParser) -> None:
    _add_sections(parser, ['known_types', 'new_types'])
    parser.add_argument('--metrics', nargs='+', default=['rali-lite'], metavar='NAME|FILE',
                        help='metrics of pyiqa, or exports of RALI (default: rali-lite)')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for tables, results and the figure')
    _add_device(parser)
    parser.add_examples(
        ('pyiqa-rali analyse levels -opt options/evaluate_levels.yml --metrics rali-lite piqe --out levels', ''),
        notes=f'Each photograph of a section, with each type of distortion at each level; the labels are synthetic. {GOES_ON}')


def _levels(args: argparse.Namespace) -> 'AnalysisResult':
    from pyiqa_rali.studies.analyses.levels import analyse_levels
    return analyse_levels(args.opt, args.sections, args.metrics, args.out, args.device)


def _levels_lines(found: 'AnalysisResult') -> list[str]:
    return [f'{row["section"]:14} {row["metric"]:20} {row["pictures"]:5} pictures  PLCC {row["plcc"]:6.3f}  SRCC '
            f'{row["srcc"]:6.3f}  levels in order {row["level_order"]:.1%}' for row in found.tables['table']]


KINDS = {
    'attention': Kind("Where a reasoning model's rating looks: picture, prompt or reasoning, layer by layer.",
                      _add_attention, _attention, _attention_lines),
    'reasoning': Kind("What the reasoning does for a reasoning model's score: on, off, its words shuffled, another image's.",
                      _add_reasoning, _reasoning, _reasoning_lines),
    'domains': Kind('How far data sets are apart: in visual features, in the reasoning texts, and in aligned image embeddings.',
                    _add_domains, _domains, _domains_lines),
    'teachers': Kind('Whether models aligned with the texts of different teachers score the same images alike.',
                     _add_teachers, _teachers, _teachers_lines),
    'efficiency': Kind('What RALI costs against a reasoning model: parameters, time and memory, in one run.',
                       _add_efficiency, _efficiency, _efficiency_lines),
    'levels': Kind('Whether metrics put the levels of each distortion in order, on photographs that training never saw.',
                   _add_levels, _levels, _levels_lines)}
