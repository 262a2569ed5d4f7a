"""What the reasoning does for a reasoning model's score: on, off, its words shuffled, another image's."""

import argparse
from typing import Any

from pyiqa_rali.cli.analyses import (
    add_datasets,
    add_reasoner,
    add_sampling,
    drawn,
    load_reasoner,
    model_settings,
    sections_of,
)
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_datasets(parser, ['test'])
    add_sampling(parser, with_seed=False)
    add_reasoner(parser)
    parser.epilog = ('The score is the expectation over the digits of the rating. Off: the answer follows an empty reasoning. '
                     'Other: each image with the reasoning on one other image. Goes on where it was stopped.')


def run(args: argparse.Namespace) -> int:
    """Rate every image under every condition, and write scores.csv, table.csv, results.json and reasoning.png.

    Raises:
        OptionError: several sections, or arguments that cannot be used.
    """
    import numpy as np

    from pyiqa_rali.figures.analyses import draw_conditions
    from pyiqa_rali.model.digest import weights_digest
    from pyiqa_rali.studies.analyses.completions import greedy_completions
    from pyiqa_rali.studies.analyses.folder import AnalysisFolder
    from pyiqa_rali.studies.analyses.reasoning_switch import CONDITIONS, agreement, partners
    from pyiqa_rali.vlm.tables import rows_of
    if len(args.sections) != 1:
        raise OptionError(f'--sections: {" ".join(args.sections)}: one data set at a time; give another --out for the next.')
    _, sections = sections_of(args.opt, args.sections)
    folder = AnalysisFolder(args.out, 'reasoning', {**model_settings(args), 'limit': args.limit, 'datasets': sections})
    reasoner = load_reasoner(args)
    folder.check_weights({'model': weights_digest(reasoner.model)})
    section = args.sections[0]
    rows = rows_of(section, sections[section], reasoner.card, args.seed)
    rows = [rows[place] for place in drawn(len(rows), args.limit, args.seed)]
    paths, mos = [row.image_path for row in rows], np.array([row.mos for row in rows])
    completions = greedy_completions(reasoner, paths, folder.rows('completions'), args.max_new_tokens, args.batch_size)
    other = partners(len(paths), args.seed)
    found = rate(reasoner, paths, completions, other, folder.rows('ratings'), args)
    ratings = {condition: np.array([found[path][condition] for path in paths]) for condition in CONDITIONS}
    table = agreement(ratings, mos, other)
    folder.table('scores', [{'image': path, 'mos': mos[place], **{name: values[place] for name, values in ratings.items()},
                             'other_image': paths[other[place]]} for place, path in enumerate(paths)])
    folder.table('table', table)
    folder.results({'dataset': section, 'images': len(paths), 'conditions': table})
    draw_conditions(ratings, mos, table, folder.picture('reasoning'), reasoner.card.rating_range)
    for row in table:
        print(f'reasoning {row["condition"]:9} PLCC {row["plcc_mos"]:6.3f}  SRCC {row["srcc_mos"]:6.3f} with MOS,  PLCC '
              f'{row["plcc_on"]:6.3f} with on')
    print(f'{folder.root}: scores.csv, table.csv, results.json, reasoning.png')
    return 0


def rate(reasoner: Any, paths: list[str], completions: list[list[int]], other: Any, rows: Any,
         args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the ratings of every image, by condition; those that stand in the file are not computed again."""
    from tqdm import tqdm

    from pyiqa_rali.studies.analyses.reasoning_switch import CONDITIONS, begun_completion
    from pyiqa_rali.vlm.generation import derived_seed, expected_ratings
    from pyiqa_rali.vlm.tables import read_picture
    card = reasoner.card
    left = [place for place, path in enumerate(paths) if path not in rows.done]
    with tqdm(total=len(paths), initial=len(paths) - len(left), desc='ratings', unit='image') as bar:
        for start in range(0, len(left), args.batch_size):
            chunk = left[start:start + args.batch_size]
            pictures = [read_picture(paths[place]) for place in chunk]
            found = {}
            for condition in CONDITIONS:
                begun = [begun_completion(reasoner, condition, completions[place], completions[other[place]],
                                          derived_seed(args.seed, place)) for place in chunk]
                found[condition] = expected_ratings(reasoner, pictures, card.question(), begun, tuple(card.rating_range),
                                                    card.rating_key, args.batch_size)
            rows.add([{'key': paths[place], **{name: values[number] for name, values in found.items()}}
                      for number, place in enumerate(chunk)])
            bar.update(len(chunk))
    return rows.done
