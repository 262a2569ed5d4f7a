"""How commands declare their arguments: a parser whose help fits a screen, and arguments that several commands share."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pyiqa_rali.core.errors import OptionError, did_you_mean, some
from pyiqa_rali.core.messages import LOG_FORMATS, TEXT

if TYPE_CHECKING:
    from pyiqa_rali.data.image_files import ReadingOptions
    from pyiqa_rali.vlm.settings import ReasonerSettings

WIDEST = 100  # columns of a help text
LONGEST = 512  # tokens of a text
OPTION_COLUMNS = 30  # at most, before an option's explanation begins


class CommandParser(argparse.ArgumentParser):
    """A parser whose --help fits a screen: groups, examples at the end, and rarely used options by name alone.

    --help-all shows what those options do.

    Attributes:
        examples: (command line, what it does) of each example; see `add_examples`.
    """

    def __init__(self, **options: Any):
        super().__init__(**{'formatter_class': _Formatter, 'allow_abbrev': False, 'add_help': False, **options})
        self.add_argument('-h', '--help', action='help', help=argparse.SUPPRESS)
        self.examples: list[tuple[str, str]] = []
        self._notes = ''
        self._rare: list[Any] = []

    def add_rare_group(self, title: str) -> Any:
        """Return a group for rarely used options: --help names them, --help-all explains them."""
        if not self._rare:
            self.add_argument('--help-all', action=_HelpAll, nargs=0, help=argparse.SUPPRESS)
        self._rare.append(self.add_argument_group(title))
        return self._rare[-1]

    def add_examples(self, *examples: tuple[str, str], notes: str = '') -> None:
        """Add the examples at the end of the help.

        Args:
            *examples: command lines, each with what it does.
            notes: a paragraph below them.
        """
        self.examples += examples
        self._notes = notes

    def format_usage(self) -> str:
        """Return one line: the required arguments, and whether there are options."""
        required, optional = [], False
        for action in self._actions:
            if action.option_strings and not action.required:
                optional |= action.help is not argparse.SUPPRESS
            elif action.option_strings:
                required.append(f'{action.option_strings[0]} {_value_of(action)}'.rstrip())
        for group in self._mutually_exclusive_groups:
            if group.required:
                required.append(' | '.join(f'{action.option_strings[0]} {_value_of(action)}'.rstrip()
                                           for action in group._group_actions if action.option_strings).join('()'))
        positional = [_value_of(action) for action in self._actions if not action.option_strings]
        return _wrapped(' '.join([f'usage: {self.prog}', *positional, *required, *(['[options]'] if optional else [])]),
                        ' ' * 7) + '\n'

    def format_help(self, everything: bool = False) -> str:
        """Return the help.

        Args:
            everything: also explain the options of rare groups.
        """
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        for group in self._action_groups:
            if everything or group not in self._rare:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        parts = [self.format_usage(), formatter.format_help()]
        if self._rare and not everything:
            names = [action.option_strings[-1] for group in self._rare for action in group._group_actions]
            parts.append(_wrapped(f'more options, explained by --help-all: {", ".join(names)}', '  ') + '\n')
        if self.examples:
            indent = max((len(command) for command, meaning in self.examples if meaning), default=0) + 2
            lines = [f'  {command.ljust(indent if meaning else 0)}{meaning}'.rstrip() for command, meaning in self.examples]
            parts.append('\n'.join(['examples:', *lines]) + '\n')
        if self._notes or self.epilog:
            parts.append(_wrapped(self._notes or str(self.epilog)) + '\n')
        return '\n'.join(parts)


class _Formatter(argparse.HelpFormatter):
    """Lines of at most 100 columns; a repeated value, and the value of an option with two names, are written once."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=OPTION_COLUMNS, width=_columns())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if len(action.option_strings) < 2 or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f'{", ".join(action.option_strings)} {self._format_args(action, action.dest.upper())}'

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(' '.join(text.split()), width, break_on_hyphens=False)  # rali-lite is one word

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == '+':
            return f'{action.metavar or default_metavar} [...]'
        return super()._format_args(action, default_metavar)


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(cast(CommandParser, parser).format_help(everything=True), end='')  # only a CommandParser has this action
        parser.exit()


def _columns() -> int:
    return min(WIDEST, shutil.get_terminal_size().columns - 1)


def _wrapped(text: str, indent: str = '') -> str:
    return textwrap.fill(text, _columns(), subsequent_indent=indent, break_on_hyphens=False)


def _value_of(action: argparse.Action) -> str:
    """Return how the usage line writes the values of an argument."""
    if action.nargs == 0:
        return ''
    name = action.metavar if isinstance(action.metavar, str) else ' '.join(action.metavar or [action.dest.upper()])
    return {'?': f'[{name}]', '*': f'[{name} ...]', '+': f'{name} [...]'}.get(str(action.nargs), name)


def add_log_format(parser: CommandParser) -> None:
    """Declare how a command says what it says on stderr, as a rarely used option; every command has it."""
    group = parser.add_rare_group('messages')
    group.add_argument('--log-format', choices=LOG_FORMATS, default=TEXT, help='json: what is said on stderr is one JSON '
                       'object a line, progress with speed and time left included (default: %(default)s)')


def add_option_file(parser: argparse.ArgumentParser, default: str | None = None, example: str = '',
                    change: str = '') -> None:
    """Declare the option file and changes to it.

    Args:
        parser: of the command.
        default: the file when none is given; None makes it required.
        example: a file to name in the help.
        change: a change to name in the help.
    """
    which = f' (default: {default})' if default else f', such as {example}' if example else ''
    parser.add_argument('-opt', metavar='FILE', required=default is None, default=default, help=f'option file{which}')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help=f'change options of the file{f", such as {change}" if change else ""}')


def add_images(parser: CommandParser) -> None:
    """Declare the images, as `ImageSources` takes them."""
    parser.add_argument('images', nargs='+', metavar='PATH', help='image file, folder (all images below it), quoted glob, tar '
                        'shard, @FILE (a list), - (a list from standard input)')


def told_empty(empty: Sequence[str]) -> bool:
    """Return whether any folders, lists, globs or shards have no image, and name them on stderr."""
    if empty:
        print(f'NO IMAGE in {some(empty)}', file=sys.stderr)
    return bool(empty)


def data_set_of(opt: str, section: str) -> 'tuple[str, dict[str, Any], ReadingOptions]':
    """Return the name, the options and the reading options of a data set in an option file.

    Raises:
        OptionError: the file has no such data set, or one whose images are not files.
    """
    from pyiqa_rali.core.options import from_known_keys, read_yaml
    from pyiqa_rali.data.sections import DatasetOptions
    values = read_yaml(opt)
    sections = values.get('datasets')
    if not isinstance(sections, dict) or not all(isinstance(values, dict) for values in sections.values()):
        raise OptionError(f'--opt: {opt} has no data sets (a section datasets:, with a section for each). Give an option file '
                          'of a training, such as options/rali.yml, or images and folders instead.')
    if section not in sections:
        raise OptionError(f'--dataset: "{section}" is not in {opt} ({", ".join(sections)}).{did_you_mean(section, sections)}')
    own_phase = values.get('model_type') != 'RACT'  # RACT's sections may have any names, and all are trained on
    options: DatasetOptions = from_known_keys(DatasetOptions.kind_of(sections[section]), sections[section],
                                              f'datasets: {section}')
    return section if own_phase else 'train', sections[section], options.reading


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare the reasoning model."""
    parser.add_argument('--model', required=True, metavar='FOLDER_OR_REPO',
                        help='a vision-language model: a folder, owner/name[:folder] on the hub, or qinsight or '
                             'visualquality-r1 for the published ones')


def add_model_settings(parser: CommandParser) -> None:
    """Declare how a reasoning model is loaded and run, as rarely used options."""
    group = parser.add_rare_group('how the model is run')
    group.add_argument('--rating-range', nargs=2, type=float, metavar=('LOW', 'HIGH'),
                       help='scale of its ratings, for a model whose folder does not say')
    group.add_argument('--prompt', help="question instead of the model's own")
    group.add_argument('--system-prompt', metavar='TEXT', help="system message instead of the model's own")
    group.add_argument('--prompts', metavar='FILE', help='YAML file with score_prompt, system_prompt and the like')
    group.add_argument('--dtype', choices=('auto', 'float32', 'bfloat16', 'float16'), default='auto')
    group.add_argument('--attn-implementation', metavar='NAME', help='such as sdpa or flash_attention_2')
    group.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    group.add_argument('--max-pixels', type=int, metavar='N', help='larger pictures are scaled down')
    group.add_argument('--max-new-tokens', type=int, metavar='N', help=f'longest text (default: {LONGEST})')
    group.add_argument('--batch-size', type=int, default=8, metavar='N', help='images at once (default: %(default)s)')
    group.add_argument('--seed', type=int, default=0, help='of sampling (default: %(default)s)')


def model_settings(args: argparse.Namespace) -> 'ReasonerSettings':
    """Return the reasoning model that `add_model` and `add_model_settings` asked for.

    Raises:
        OptionError: a number is below 1.
    """
    from pyiqa_rali.vlm.settings import ReasonerSettings
    check_positive(args, 'max_pixels', 'max_new_tokens', 'batch_size')
    model, rating_range, release = published_model(args.model, args.rating_range)
    return ReasonerSettings(model, args.prompt, rating_range, args.dtype, args.attn_implementation, args.device,
                            args.max_pixels, args.max_new_tokens or LONGEST, args.batch_size, args.seed, args.system_prompt,
                            args.prompts, release)


def published_model(model: str, rating_range: Sequence[float] | None) -> tuple[str, Sequence[float] | None, str | None]:
    """Return repository, rating scale and release of a published model's metric name; anything else stays as it is."""
    from pyiqa_rali.register import METRICS
    options = METRICS.get(model, {}).get('metric_opts', {})
    if options.get('release') is None:
        return model, rating_range, None
    return options['pretrained'], rating_range or options['rating_range'], options['release']


def add_reading_settings(parser: CommandParser) -> None:
    """Declare how pictures are read, as rarely used options."""
    group = parser.add_rare_group('how pictures are read')
    group.add_argument('--as-stored', action='store_true', help='leave pictures as they are stored, ignoring their EXIF '
                       'orientation (default: upright)')
    group.add_argument('--pixel-limit', type=int, metavar='N', help='reject pictures with more pixels (default: 178956970)')
    group.add_argument('--timeout', type=float, default=60.0, metavar='SECONDS',
                       help='that one try to fetch a picture from an address may take (default: %(default)g)')
    group.add_argument('--retries', type=int, default=3, metavar='N',
                       help='further tries after one that failed for a reason that may pass (default: %(default)s)')


def reading_settings(args: argparse.Namespace) -> 'ReadingOptions':
    """Return how pictures are read, as `add_reading_settings` asked for.

    Raises:
        OptionError: the limit is below 1, or a time or a number of tries cannot be used.
    """
    from pyiqa_rali.data.fetching import FetchOptions
    from pyiqa_rali.data.image_files import PIXEL_LIMIT, ReadingOptions
    check_positive(args, 'pixel_limit')
    return ReadingOptions(not args.as_stored, args.pixel_limit or PIXEL_LIMIT, FetchOptions(args.timeout, args.retries))


def check_positive(args: argparse.Namespace, *names: str) -> None:
    """Raise OptionError for an argument that is given and below 1."""
    check_least(args, dict.fromkeys(names, 1))


def check_least(args: argparse.Namespace, least: dict[str, int]) -> None:
    """Raise OptionError for an argument, or one of its values, that is given and below its least value."""
    for name, bound in least.items():
        given = getattr(args, name)
        for value in given if isinstance(given, Sequence) else [given]:
            if value is not None and value < bound:
                raise OptionError(f'--{name.replace("_", "-")}: {value} must be at least {bound}.')


def refuse_changed(args: argparse.Namespace, defaults: dict[str, Any], why: str) -> None:
    """Reject arguments that would have no effect.

    Args:
        args: the arguments of a command.
        defaults: names of those that have no effect here, with their defaults.
        why: what the message says about the first one with another value.

    Raises:
        OptionError: one was given.
    """
    for name, default in defaults.items():
        if getattr(args, name) != default:
            raise OptionError(f'--{name.replace("_", "-")}: {why}. Leave it out.')
