"""Measure explanations on pictures whose distortions are known."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyiqa_rali.core.options import refuse_changed

PICTURES, RESULTS, SETTINGS, FIGURE = 'pictures.jsonl', 'results.json', 'settings.json', 'explanations.png'
BATCH = 16
DRAWN = {'photos': None, 'phase': 'test', 'split_seed': 0, 'ratios': (0.8, 0.05, 0.15), 'num_photographs': None,
         'levels': (1, 2, 3, 4, 5), 'composites': None, 'size': (384, 512)}  # defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pyiqa-rali evaluate-explanations`."""
    parser.epilog = 'A run that was stopped goes on when it is started again with the same arguments.'
    parser.add_argument('folder', nargs='?', metavar='FOLDER', help='data set of make-dataset; without it, pictures are drawn '
                                                                    'from photographs: each with each type at each level')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='where results.json, pictures.jsonl and a figure go')
    parser.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite, with --weights rali)')
    parser.add_argument('--weights', metavar='PATH', help='file or folder of an export with a text bank')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    drawn = parser.add_argument_group('pictures that are drawn')
    drawn.add_argument('--photos', metavar='DIR', help='photographs (default: those that the dependencies install)')
    drawn.add_argument('--phase', default=DRAWN['phase'], help='which of the split: train, val or test (default: %(default)s)')
    drawn.add_argument('--split-seed', type=int, default=DRAWN['split_seed'],
                       help='of the split (default: %(default)s, that of rali-lite)')
    drawn.add_argument('--ratios', nargs=3, type=float, default=DRAWN['ratios'], metavar=('TRAIN', 'VAL', 'TEST'),
                       help='shares of the split (default: those of rali-lite, 0.8 0.05 0.15)')
    drawn.add_argument('--num-photographs', type=int, metavar='N', help='only so many, one crop of each (default: all crops)')
    drawn.add_argument('--levels', nargs='+', type=float, default=DRAWN['levels'], metavar='LEVEL',
                       help='in [0.5, 5.5] (default: 1 2 3 4 5)')
    drawn.add_argument('--composites', type=int, metavar='N', help='instead of the grid, N random pictures, half of them with '
                                                                   'two distortions and a tenth with none')
    drawn.add_argument('--size', nargs=2, type=int, default=DRAWN['size'], metavar=('HEIGHT', 'WIDTH'),
                       help='pixels (default: 384 512)')


def run(args: argparse.Namespace) -> int:
    """Explain the pictures that are not done yet, measure all, print and draw.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    from tqdm import tqdm

    from pyiqa_rali.cli.explain import make_explainer
    from pyiqa_rali.core.files import write_json
    from pyiqa_rali.core.runs import KeyedRows, claim_folder
    from pyiqa_rali.figures.explanations import draw_measures
    from pyiqa_rali.studies.explanations import measure_explanations
    metric = make_explainer(args)
    pictures, settings = open_pictures(args)
    out = Path(args.out)
    from pyiqa_rali.model.digest import weights_digest
    claim_folder(out / SETTINGS, {**settings, 'weights': weights_digest(metric.net)}, '--out')
    kept = KeyedRows(out / PICTURES, 'image', durable=False)
    left = [index for index, name in enumerate(pictures.names()) if name not in kept.done]
    with tqdm(total=len(left), unit='picture', disable=None) as bar:
        for start in range(0, len(left), BATCH):
            chunk = list(explain_pictures(metric.net, pictures.read(left[start:start + BATCH])))
            kept.add(chunk)
            bar.update(len(chunk))
    rows = list(kept.done.values())
    found = measure_explanations(rows)
    write_json(out / RESULTS, found)
    draw_measures(found, rows, out / FIGURE)
    print('\n'.join(report(found)))
    return 0


def open_pictures(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return the pictures, and the arguments that they follow from."""
    from pyiqa_rali.data.synthetic.dataset import SyntheticNRDataset
    from pyiqa_rali.data.synthetic.known_distortions import DrawnPictures, TablePictures
    if args.folder:
        refuse_changed(args, DRAWN, 'is about pictures that are drawn, but these come from FOLDER')
        return TablePictures(args.folder), {'folder': args.folder}
    chosen = {'dataroot_photos': args.photos, 'phase': args.phase, 'split_seed': args.split_seed,
              'split_ratios': list(args.ratios), 'crop_size': list(args.size), 'num_photographs': args.num_photographs}
    if args.composites is not None:
        chosen.update(samples_per_epoch=args.composites, composite_probability=0.5, pristine_probability=0.1)
    else:
        chosen.update(levels=list(map(float, args.levels)))
    options = {'name': 'photographs', 'type': 'SyntheticNRDataset', 'source_scale': [1.0, 1.0], 'texts_per_image': 0, **chosen}
    return DrawnPictures(SyntheticNRDataset(options)), chosen


def explain_pictures(net: Any, pictures: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each picture (see `measure_explanations`)."""
    from pyiqa_rali.data.synthetic.dataset import as_tensor
    device = next(net.parameters()).device
    for picture in pictures:
        found = net.explain(as_tensor([picture.pixels]).to(device))[0]
        yield {'image': picture.image, 'distortions': picture.distortions, 'mos': picture.mos, 'score': found.score,
               'uncertainty': found.uncertainty, 'shares': {vote.distortion: round(vote.share, 6) for vote in found.votes},
               'levels': {vote.distortion: vote.level if vote.level is None else round(vote.level, 4)
                          for vote in found.votes}}


def report(found: dict[str, Any]) -> list[str]:
    """Return the lines that are printed."""
    lines = [f'{found["pictures"]} pictures']
    for name, key in (('all types', 'all_types'), ('common types', 'common_types'),
                      ('the same, with votes for others left out', 'among_common_types')):
        each = found[key]
        if each:
            lines.append(f'{name}: {each["types"]} types, {each["pictures"]} pictures: class right {each["accuracy"]:.1%} '
                         f'(most frequent class {each["majority"]:.1%}), among the first three {each["top_3_accuracy"]:.1%}, '
                         f'family right {each["family_accuracy"]:.1%}; level off by {each["level_error"]:.2f} '
                         f'(a constant {each["level_error_of_the_median"]:.2f})')
    if found['composite']:
        each = found['composite']
        lines.append(f'two distortions: {each["pictures"]} pictures: first vote is one of them '
                     f'{each["first_is_one_of_them"]:.1%}, first two are both {each["first_two_are_both"]:.1%}')
    if found['pristine']:
        lines.append(f'pristine: {found["pristine"]["pictures"]} pictures: said so {found["pristine"]["accuracy"]:.1%}')
    votes, score = found['vote_calibration'], found['score']
    lines.append(f'largest vote: mean share {votes["mean_share"]:.1%}, right {votes["accuracy"]:.1%}, expected calibration '
                 f'error {votes["expected_error"]:.3f}')
    lines.append(f'score: PLCC {score["plcc"]:.3f}, SRCC {score["srcc"]:.3f}, mean absolute error '
                 f'{score["mean_absolute_error"]:.2f}; uncertainty {score["mean_uncertainty"]:.2f} on average, SRCC with the '
                 f'absolute error {score["uncertainty_srcc"]:.3f}')
    return lines
