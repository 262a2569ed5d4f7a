"""Whether models aligned with the texts of different teachers score the same images alike."""

import argparse
from pathlib import Path
from typing import Any

from pyiqa_rali.cli.analyses import add_datasets, add_sampling, drawn, sections_of
from pyiqa_rali.core.errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_datasets(parser, ['test'])
    add_sampling(parser)
    parser.add_argument('--checkpoints', nargs='+', required=True, metavar='[NAME=]FILE',
                        help='exports of RALI, each aligned with texts of another teacher')
    parser.add_argument('--device', help='such as cpu or cuda:1 (default: a GPU if there is one)')


def run(args: argparse.Namespace) -> int:
    """Score, compare, and write scores.csv, table.csv, results.json and teachers.png.

    Raises:
        OptionError: fewer than two checkpoints, or two of one name.
    """
    import numpy as np
    import torch

    from pyiqa_rali.figures.analyses import draw_agreement
    from pyiqa_rali.model.digest import weights_digest
    from pyiqa_rali.model.rali import RALI
    from pyiqa_rali.studies.analyses.agreement import MOS, consistency
    from pyiqa_rali.studies.analyses.folder import AnalysisFolder
    checkpoints = named_checkpoints(args.checkpoints)
    _, sections = sections_of(args.opt, args.sections)
    folder = AnalysisFolder(args.out, 'teachers', {'checkpoints': checkpoints, 'limit': args.limit, 'seed': args.seed,
                                                   'datasets': sections})
    device = torch.device(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    models = {name: RALI(pretrained_model_path=path).to(device).eval() for name, path in checkpoints.items()}
    folder.check_weights({name: weights_digest(model) for name, model in models.items()})
    found = score(models, sections, folder.rows('scored'), args, device)
    lines, table, scores = [], [], {}
    for section, images in found.items():
        mos = np.array([row['mos_label'] for row in images])
        scores[section] = {name: np.array([row[name] for row in images]) for name in checkpoints}
        table += consistency(scores[section], mos, section)
        lines += [{'dataset': section, **{key: value for key, value in row.items() if key != 'key'}} for row in images]
    folder.table('scores', lines)
    folder.table('table', table)
    folder.results({'rows': table})
    draw_agreement(scores, table, folder.picture('teachers'))
    for row in table:
        print(f'{row["dataset"]}: {row["first"]} | {row["second"]}: PLCC {row["plcc"]:.3f}  SRCC {row["srcc"]:.3f}'
              + ('' if row['second'] == MOS else f'; their PLCC with MOS differ by {row["plcc_difference"]:.3f}'))
    print(f'{folder.root}: scores.csv, table.csv, results.json, teachers.png')
    return 0


def named_checkpoints(given: list[str]) -> dict[str, str]:
    """Return path by name; a checkpoint without a name is called by its run's folder.

    Raises:
        OptionError: fewer than two, or two of one name.
    """
    pairs = [each.split('=', 1) if '=' in each else [_run_name(Path(each)), each] for each in given]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or len(names) < 2:
        raise OptionError(f'--checkpoints: {", ".join(names)}: must be two at least, of different names; give them as '
                          'NAME=FILE.')
    return dict(pairs)


def _run_name(path: Path) -> str:
    return path.parent.parent.name if path.parent.name == 'models' else path.stem


def score(models: dict[str, Any], sections: dict[str, dict[str, Any]], rows: Any, args: argparse.Namespace,
          device: Any) -> dict[str, list[dict[str, Any]]]:
    """Return for each section the images with MOS and scores, all higher better; what stands in the file is kept."""
    import torch
    from tqdm import tqdm

    from pyiqa_rali.data.tables import build_table
    found: dict[str, list[dict[str, Any]]] = {}
    for section, options in sections.items():
        table = build_table(section, options, args.seed)
        found[section] = []
        for place in tqdm(drawn(len(table), args.limit, args.seed), desc=f'scores: {section}', unit='image'):
            key = f'{section}/{place}'
            if key not in rows.done:
                item = table[place]
                picture = item['img'].unsqueeze(0).to(device)
                with torch.inference_mode():
                    scores = {name: oriented(model, model(picture).item()) for name, model in models.items()}
                rows.add([{'key': key, 'image': str(item['img_path']), 'mos_label': float(item['mos_label']), **scores}])
            found[section].append(rows.done[key])
    return found


def oriented(model: Any, score_value: float) -> float:
    """Return a score, turned so that higher is better."""
    return -score_value if model.metadata['lower_better'] else score_value
