"""Where a reasoning model's rating looks: picture, prompt or reasoning, layer by layer."""

import argparse

from pyiqa_rali.cli.analyses import add_reasoner, add_sampling, drawn, load_reasoner, model_settings
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('images', nargs='+', metavar='IMAGE|FOLDER', help='image files, folders with images below them')
    add_sampling(parser, with_seed=False)
    add_reasoner(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, image after image, and write layers.csv, images.csv, results.json and attention.png."""
    import numpy as np
    from tqdm import tqdm

    from pyiqa_rali.data.image_files import ImageFinder
    from pyiqa_rali.figures.analyses import draw_attention
    from pyiqa_rali.model.digest import weights_digest
    from pyiqa_rali.studies.analyses.attention import PARTS, attention_shares, summary
    from pyiqa_rali.studies.analyses.completions import greedy_completions
    from pyiqa_rali.studies.analyses.folder import AnalysisFolder
    from pyiqa_rali.vlm.tables import read_picture
    files = list(dict.fromkeys(ImageFinder(args.images)))
    files = [files[place] for place in drawn(len(files), args.limit, args.seed)]
    if not files:
        raise OptionError(f'IMAGE|FOLDER: no image below {", ".join(args.images)}.')
    folder = AnalysisFolder(args.out, 'attention', {**model_settings(args), 'images': args.images, 'limit': args.limit})
    reasoner = load_reasoner(args)
    folder.check_weights({'model': weights_digest(reasoner.model)})
    completions = greedy_completions(reasoner, files, folder.rows('completions'), args.max_new_tokens, args.batch_size)
    rows = folder.rows('attention')
    for path, completion in tqdm(list(zip(files, completions, strict=True)), desc='attention', unit='image'):
        if path not in rows.done:
            found = attention_shares(reasoner, read_picture(path), reasoner.card.question(), completion,
                                     reasoner.card.rating_key)
            rows.add([{'key': path, 'shares': found.shares.tolist(), 'tokens': found.tokens.tolist()}])
    shares = np.array([rows.done[path]['shares'] for path in files])
    tokens = np.array([rows.done[path]['tokens'] for path in files])
    found = {'images': len(files), 'layers': shares.shape[1], **summary(shares, tokens)}
    folder.table('layers', [{'layer': layer + 1, **dict(zip(PARTS, values, strict=True))}
                            for layer, values in enumerate(shares.mean(axis=0).tolist())])
    folder.table('images', [{'image': path, **dict(zip(PARTS, own.mean(axis=0).tolist(), strict=True)),
                             **{f'{part}_tokens': count for part, count in zip(PARTS, counts.tolist(), strict=True)}}
                            for path, own, counts in zip(files, shares, tokens, strict=True)])
    folder.results(found)
    draw_attention(shares, PARTS, folder.picture('attention'), f'attention of the rating, mean over {len(files)} images')
    report(found)
    print(f'{folder.root}: layers.csv, images.csv, results.json, attention.png')
    return 0


def report(found: dict) -> None:
    """Print the shares and tokens of the parts."""
    print(f'attention of the rating over {found["layers"]} layers, mean over {found["images"]} images:')
    for part, share in found['shares'].items():
        print(f'  {part:10}{share:7.1%}   {found["tokens"][part]:7.1f} tokens')
    both = found['reasoning_and_visual']
    print(f'of what reasoning and picture get together: reasoning {both["reasoning"]:.1%}, picture {both["visual"]:.1%}')
