"""Test the light model: seeds, splits by photograph, unseen distortions, baselines."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pyiqa_rali.core.files import write_json, write_yaml
from pyiqa_rali.core.options import override, read_yaml
from pyiqa_rali.core.runs import differences, read_claim
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.studies.baselines import Brisque, Piqe, ridge_scores
from pyiqa_rali.studies.protocol import HELD_OUT, SETS, level_order, measure, medians, protocol_options, read_scores
from pyiqa_rali.training.rali.features import embed, load_features
from pyiqa_rali.training.rali.options import train_options
from pyiqa_rali.training.rali.run import train
from pyiqa_rali.training.rali.run_folder import RunFolder
from pyiqa_rali.training.rali.towers import build_towers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('-opt', default='options/rali_lite.yml', help='option file of the light run (%(default)s)')
    parser.add_argument('--photos', help='folder of photographs (default: those that the dependencies install)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds, each with its own split (%(default)s)')
    parser.add_argument('--num-photographs', type=int, help='test photographs of each split (default: all)')
    parser.add_argument('--no-baselines', action='store_true', help='leave ridge regression, PIQE and BRISQUE out')
    parser.add_argument('--force_yml', nargs='+', action='extend', default=[], metavar='SECTION:KEY=VALUE',
                        help='change options of the file')
    parser.add_argument('--out', default='experiments/rali_lite_protocol.json', help='the results (%(default)s)')


def run(args: argparse.Namespace) -> int:
    """Train and measure every seed; interrupted runs go on where they stopped."""
    values = override(read_yaml(args.opt), args.force_yml)
    results = {}
    for seed in args.seeds:
        options = protocol_options(values, seed, args.photos, args.num_photographs)
        path = Path(args.out).with_suffix('') / f'seed_{seed}.yml'
        write_yaml(path, options)
        results[seed] = finished_result(path.with_suffix('.json'), options, not args.no_baselines)
        if results[seed] is None:
            train(str(path), auto_resume=True)
            results[seed] = measure_run(options, not args.no_baselines)
            write_json(path.with_suffix('.json'), {'options': options, 'baselines': not args.no_baselines,
                                                   'result': results[seed]})
        write_json(args.out, {'held_out': HELD_OUT, 'seeds': results, 'median': medians(list(results.values()))})
    print(json.dumps(medians(list(results.values())), indent=2))
    return 0


def finished_result(path: Path, options: dict[str, Any], with_baselines: bool) -> dict[str, Any] | None:
    """Return what an earlier call measured with the same options, or None."""
    found = read_claim(path)
    if found is None or differences({**found, 'result': None}, {'options': options, 'baselines': with_baselines}):
        return None
    return found['result']


def measure_run(values: dict[str, Any], with_baselines: bool) -> dict[str, Any]:
    """Return correlations, level order and baselines of one finished run."""
    options = train_options(values)
    folder = RunFolder(options)
    found: dict[str, Any] = {}
    for section in SETS:
        names, mos, scores = read_scores(folder.scores(section))
        found[section] = {'images': len(names), **measure(mos, scores, section), 'level_order': level_order(names, scores)}
        if with_baselines:
            pictures = PictureReader(options, section)
            for name, metric in (('piqe', Piqe()), ('brisque', Brisque())):
                baseline = np.array([metric(picture) for picture in tqdm(pictures, desc=f'{name} on {section}')])
                found[section][name] = measure(mos, baseline, name)
    if with_baselines:
        add_ridge(found, options, folder)
    return found


class PictureReader:
    """The pictures of a validation set as uint8 (H, W, 3), one after the other."""

    def __init__(self, options, section: str):
        self.table = build_table(section, options.datasets[section], options.manual_seed)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self):
        for index in range(len(self.table)):
            draw = self.table.base.draw(index)
            yield draw.distorted


def add_ridge(found: dict[str, Any], options, folder: RunFolder) -> None:
    """Add ridge regression on the backbone as it was before alignment, at the same resolution, on the same pictures."""
    encoder = build_towers(options.network, options.text_encoder, options.path).image_encoder.eval()
    encoder.projection = torch.nn.Identity()
    device = torch.device('cpu')
    basis = embed(encoder, build_table('basis', options.datasets['basis'], options.manual_seed), device,
                  num_workers=options.datasets['basis'].get('num_worker_per_gpu', 0))
    labels = load_features(folder.features('basis')).mos_label.numpy()
    for section in SETS:
        table = build_table(section, options.datasets[section], options.manual_seed)
        test = embed(encoder, table, device, num_workers=options.datasets[section].get('num_worker_per_gpu', 0))
        scores = ridge_scores(basis.image_features.numpy().astype(np.float64), labels.astype(np.float64),
                              test.image_features.numpy().astype(np.float64))
        found[section]['ridge'] = measure(test.mos_label.numpy(), scores, 'ridge')
