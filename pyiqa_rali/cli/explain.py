"""Explain scores: nearest texts, distortions, basis, uncertainty."""

import argparse
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyiqa_rali.cli.arguments import CommandParser, add_images, add_reading_settings, reading_settings, told_empty

if TYPE_CHECKING:
    from pyiqa_rali.figures.explanations import Beside
    from pyiqa_rali.model.quality_map import QualityMap
    from pyiqa_rali.scoring.explaining import Aligned, ExplainedImage, Interval

WIDTH, BAR, VOTES = 80, 20, 5


def add_arguments(parser: CommandParser) -> None:
    """Add the arguments of `pyiqa-rali explain`."""
    add_images(parser)
    parser.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export with a text bank')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if available)')
    parser.add_argument('--out', metavar='FOLDER', help='draw each explanation as a PNG in this folder')
    parser.add_argument('--map', action='store_true', help='tell where the picture is good and bad; with --out, draw it too')
    parser.add_argument('--prompts', metavar='FILE', help='of generated pictures, a table of names and prompt')
    parser.add_argument('--json', action='store_true', help='one JSON object per line instead of text')
    parser.add_argument('--num-texts', type=int, default=3, metavar='N', help='nearest texts (default: %(default)s)')
    parser.add_argument('--num-basis', type=int, default=5, metavar='N', help='basis vectors (default: %(default)s)')
    add_reading_settings(parser)
    parser.add_examples(
        ('pyiqa-rali explain photo.jpg', ''),
        ('pyiqa-rali explain photos/ --weights FILE --out explained', 'a figure for each'),
        ('pyiqa-rali explain photo.jpg --map --out explained', 'and where it is good and bad'),
        notes='Needs a checkpoint with a text bank, as rali-lite has; add-bank adds one. An image that cannot be explained '
              'has a line with the reason; then the exit status is 1.')


def run(args: argparse.Namespace) -> int:
    """Explain images one after the other.

    Returns:
        0; 1 when there are images that cannot be explained, or a folder, list, glob or shard without an image.

    Raises:
        OptionError, CheckpointError, OSError: nothing can be explained at all; the message says why.
    """
    from pyiqa_rali.data.prompted import PromptFile
    from pyiqa_rali.model.explanation import check_counts
    from pyiqa_rali.scoring.explaining import explain_entries, make_explainer
    from pyiqa_rali.scoring.progress import Progress
    from pyiqa_rali.scoring.sources import ImageSources, count_ahead
    check_counts(args.num_texts, args.num_basis)
    reading, prompts = reading_settings(args), PromptFile(args.prompts) if args.prompts else None
    sources = ImageSources(args.images, once=False, fetching=reading.fetching)
    metric = make_explainer(args.metric, args.weights, args.device)
    names = FigureNames(args.out) if args.out else None
    with Progress('explain', count_ahead(sources)) as progress:
        for explained, pixels in explain_entries(metric, sources, args.num_texts, args.num_basis, reading, args.map, prompts):
            image, error = explained.image, explained.error
            found: Any = explained.explanation
            progress.clear()
            print(_as_json(explained) if args.json else as_text(image, found, error, metric, explained.quality_map,
                                                                explained.interval, explained.aligned), flush=True)
            if names is not None and found is not None and pixels is not None:
                from pyiqa_rali.figures.explanations import draw_explanation
                draw_explanation(pixels, found, names.next(image), metric.net.metadata['mos_range'], metric.lower_better,
                                 _beside(explained, pixels), Path(image).name)
            progress.advance(1, int(found is None))
    return 1 if told_empty(sources.empty) or progress.failed else 0


class FigureNames:
    """File names of the figures in a folder: those of the images with `_explained`, numbered where two are the same.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self.taken: set[str] = set()

    def next(self, image: str) -> Path:
        """Return the path of an image's figure."""
        stem, number = f'{Path(image).stem}_explained', 1
        name = f'{stem}.png'
        while name in self.taken:
            number += 1
            name = f'{stem}_{number}.png'
        self.taken.add(name)
        return Path(self.folder) / name


def _beside(explained: 'ExplainedImage', pixels: np.ndarray) -> 'Beside':
    """Return what the figure of an explanation shows beside it."""
    from pyiqa_rali.figures.explanations import Beside
    from pyiqa_rali.figures.quality_maps import MappedPicture
    where, interval = explained.quality_map, explained.interval
    mapped = None if where is None else MappedPicture(pixels, np.asarray(where.values), where.region)
    aligned = None if explained.aligned is None else (explained.aligned.prompt, explained.aligned.alignment)
    if interval is None:
        return Beside(mapped=mapped, aligned=aligned)
    return Beside((interval.low, interval.high), interval.coverage, interval.unlike, mapped, aligned)


def _as_json(explained: 'ExplainedImage') -> str:
    found, where, interval = explained.explanation, explained.quality_map, explained.interval
    told = {**({'quality_map': where.to_dict()} if where else {}), **({'interval': asdict(interval)} if interval else {}),
            **({'aligned': asdict(explained.aligned)} if explained.aligned else {})}
    return json.dumps({'image': explained.image, **(found.to_dict() if found else {'error': explained.error}), **told},
                      ensure_ascii=False)


def as_text(path: str, found: Any, error: str, metric: Any, where: 'QualityMap | None' = None,
            interval: 'Interval | None' = None, aligned: 'Aligned | None' = None) -> str:
    """Return an explanation for a terminal, 80 columns wide except for long file names.

    Args:
        path: of the image.
        found: its explanation; None where there is none.
        error: why there is none.
        metric: that explained it.
        where: its map; None leaves that part out.
        interval: around the score; None leaves it out.
        aligned: with its prompt; None leaves it out.
    """
    if found is None:
        return f'{path}\n  error: {error}\n'
    better = 'lower' if metric.lower_better else 'higher'
    lines = [path, f'  score {found.score:.2f}, spread {found.uncertainty:.2f}   (range {metric.score_range}; {better} is '
                   'better)']
    if interval is not None:
        lines.append(f'  interval of {interval.coverage:.0%}: {interval.low:.2f} to {interval.high:.2f}'
                     + (', unlike the pictures of its calibration' if interval.unlike else ''))
    if aligned is not None:
        lines.append(f'  alignment {aligned.alignment:.2f} with its prompt, agreement {aligned.agreement:.2f}')
        lines.append(textwrap.fill(f'"{aligned.prompt}"', WIDTH, initial_indent='    ', subsequent_indent='    '))
    if found.aspects:
        lines.append('  aspects, from 0 (bad) to 1')
        cells = [f'{name} {value:.2f}' for name, value in found.aspects.items()]
        lines += ['    ' + '  '.join(f'{cell:16}' for cell in cells[start:start + 4]).rstrip()
                  for start in range(0, len(cells), 4)]
    if where is not None:
        lines.append('  where, the mean score of each part of the picture')
        lines += ['    ' + '  '.join(f'{value:5.2f}' for value in row) for row in where.parts()]
    if found.votes:
        lines.append('  distortions, by their share of the vote')
        lines += [_vote_line(vote) for vote in found.votes[:VOTES] if vote.share >= 0.01 or vote is found.votes[0]]
    else:
        lines.append('  distortions: the text bank does not say what its texts name')
    lines.append('  nearest texts')
    lines += [_wrapped(f'{near.cosine:5.2f}  ', near.text) for near in found.texts]
    lines.append(f'  basis, the {len(found.basis)} largest of {len(found.weights)} weights: weight, basis score, nearest text')
    lines += [_shortened(f'{part.weight:5.3f}  {part.basis_score:5.2f}  ', part.text) for part in found.basis]
    return '\n'.join(lines) + '\n'


def _vote_line(vote: Any) -> str:
    level = '         ' if vote.level is None else f'level {vote.level:3.1f}'
    return f'    {vote.distortion.replace("_", " "):22} {vote.share:6.1%}  {level}  {"#" * round(BAR * vote.share)}'.rstrip()


def _shortened(start: str, text: str) -> str:
    return f'    {start}{textwrap.shorten(text, WIDTH - 4 - len(start), placeholder=" ...")}'


def _wrapped(start: str, text: str) -> str:
    indent = ' ' * (len(start) + 4)
    return textwrap.fill(text, WIDTH, initial_indent=f'    {start}', subsequent_indent=indent)
