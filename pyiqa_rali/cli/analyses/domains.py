"""How far data sets are apart: in visual features, in the reasoning texts, and in aligned image embeddings."""

import argparse
from pathlib import Path
from typing import Any

from pyiqa_rali.cli.analyses import add_datasets, add_sampling, drawn, sections_of
from pyiqa_rali.core.errors import DataError, OptionError

VISUAL, TEXT, ALIGNED = 'visual features', 'reasoning texts', 'aligned embeddings'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_datasets(parser)
    add_sampling(parser)
    parser.add_argument('--checkpoint', required=True, metavar='FILE', help='an export of RALI, for the aligned embeddings')
    parser.add_argument('--permutations', type=int, default=500, metavar='N', help='of the test (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')
    parser.epilog = ('Visual features are those of the image encoder that the option file starts from, before alignment; '
                     "texts are the first of each image, by the option file's text encoder as it is before training.")


def run(args: argparse.Namespace) -> int:
    """Embed, compare, and write distances.csv, points.csv, results.json and domains.png.

    Raises:
        OptionError: fewer than two sections, or arguments that cannot be used.
        DataError: images without a text.
        CheckpointError: weights that are not on this machine, and that the hub cannot give.
    """
    import numpy as np
    import torch

    from pyiqa_rali.figures.analyses import draw_spaces
    from pyiqa_rali.model.digest import weights_digest
    from pyiqa_rali.studies.analyses.domain_gap import gaps, plane, standardised
    from pyiqa_rali.studies.analyses.folder import AnalysisFolder
    if len(set(args.sections)) < 2:
        raise OptionError('--sections: must name two different data sets at least.')
    if args.permutations < 1:
        raise OptionError(f'--permutations: {args.permutations} must be 1 at least.')
    values, sections = sections_of(args.opt, args.sections)
    chosen = {section: chosen_images(section, options, args) for section, options in sections.items()}
    folder = AnalysisFolder(args.out, 'domains', {
        'checkpoint': args.checkpoint, 'limit': args.limit, 'seed': args.seed, 'permutations': args.permutations,
        'datasets': sections, 'network': values.get('network'), 'text_encoder': values.get('text_encoder'),
        'pretrain_network': (values.get('path') or {}).get('pretrain_network')})
    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    models = {space: model.to(device).eval() for space, model in load_models(args, values).items()}
    folder.check_weights({space: weights_digest(model) for space, model in models.items()})
    spaces = embeddings(models, chosen, device)
    names = {section: table.names for section, (table, _) in chosen.items()}
    of = [section for section, images in names.items() for _ in images]
    rows = [{'space': space, **row} for space, points in spaces.items()
            for row in gaps(points, of, args.permutations, args.seed)]
    maps = {space: plane(standardised(points), args.seed) for space, points in spaces.items()}
    images = [image for each in names.values() for image in each]
    folder.table('distances', rows)
    folder.table('points', [{'space': space, 'dataset': of[place], 'image': images[place], 'x': x, 'y': y}
                            for space, (points, _) in maps.items() for place, (x, y) in enumerate(points.tolist())])
    methods = {method for _, method in maps.values()}
    folder.results({'distances': rows, 'plane': sorted(methods), 'images': {name: len(each) for name, each in names.items()}})
    draw_spaces({space: np.asarray(points) for space, (points, _) in maps.items()}, of, rows, folder.picture('domains'),
                ', '.join(sorted(methods)))
    for row in rows:
        print(f'{row["space"]:19} {row["first"]} | {row["second"]}: MMD2 {row["mmd2"]:7.4f} (p {row["p_value"]:.3f}), '
              f'linear accuracy {row["accuracy"]:.3f}')
    print(f'{folder.root}: distances.csv, points.csv, results.json, domains.png')
    return 0


def load_models(args: argparse.Namespace, values: dict[str, Any]) -> dict[str, Any]:
    """Return the module of each space; without a network, when all that the option file names is on this machine."""
    import torch

    from pyiqa_rali.core.options import from_known_keys
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.training.rali.options import PathOptions, TextEncoderOptions
    from pyiqa_rali.training.rali.towers import build_towers
    if not values.get('network'):
        raise OptionError(f'network: must be given in {args.opt}: its image encoder is the one before alignment.')
    text = from_known_keys(TextEncoderOptions, {**(values.get('text_encoder') or {}), 'train': False}, 'text_encoder')
    path = from_known_keys(PathOptions, values.get('path') or {}, 'path')
    aligned = RALI(pretrained_model_path=args.checkpoint).image_encoder
    torch.manual_seed(args.seed)
    towers = build_towers(values['network'], text, path)
    if towers.image_encoder.config.library == 'timm' and not path.pretrain_network:
        towers.image_encoder.projection = torch.nn.Identity()  # it has random weights before alignment
    return {VISUAL: towers.image_encoder, TEXT: towers.text_encoder, ALIGNED: aligned}


def embeddings(models: dict[str, Any], chosen: dict[str, tuple['Chosen', list[str]]], device: Any) -> dict[str, Any]:
    """Return the points (n, C) of every space, over all sections in their order."""
    import numpy as np
    import torch

    from pyiqa_rali.training.rali.features import embed
    found = {space: [] for space in models}
    for table, texts in chosen.values():
        with torch.no_grad():
            found[TEXT].append(models[TEXT](texts).float().cpu().numpy())
        for space in (VISUAL, ALIGNED):
            found[space].append(embed(models[space], table, device).image_features.numpy())
    return {space: np.concatenate(parts) for space, parts in found.items()}


class Chosen:
    """Some images of a table, in the way that `embed` reads one."""

    def __init__(self, table: Any, places: list[int]):
        self.table, self.places, self.name = table, places, table.name
        every = table.image_names()
        self.names = [every[place] for place in places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """Return items for torch's loader."""
        return self.table.__getitems__([self.places[place] for place in places])


def chosen_images(section: str, options: dict[str, Any], args: argparse.Namespace) -> tuple[Chosen, list[str]]:
    """Return the drawn images of a section as they are, without random augmentation, and the first text of each."""
    from pyiqa_rali.data.reasoning_texts import join_texts, load_reasoning_texts
    from pyiqa_rali.data.tables import build_table
    if not options.get('reasoning_texts'):
        raise DataError(f'datasets: {section}: reasoning_texts: must be given; the spaces are compared on the same images.')
    kept = {key: value for key, value in (options.get('augment') or {}).items() if key in ('resize', 'center_crop')}
    table = build_table(section, {**options, 'augment': kept}, args.seed)
    if table.draws_anew:
        raise DataError(f'datasets: {section}: type: {options["type"]} has no files; write a data set with python -m '
                        'pyiqa_rali make-dataset and name its table.')
    texts = join_texts(table.image_names(), load_reasoning_texts(Path(options['reasoning_texts'])), table.table_names())
    chosen = Chosen(table, drawn(len(table), args.limit, args.seed))
    return chosen, [texts[place][0] for place in chosen.places]
