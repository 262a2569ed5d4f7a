"""Show what a checkpoint says about itself, and what it is asked."""

import argparse
import json
from pathlib import Path
from typing import Any

from pyiqa_rali.cli.arguments import CommandParser, published_model, refuse_changed


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file or folder of an export, or rali-lite for the embedded '
                        'one; a reasoning model: its folder, owner/name[:folder] in the cache of the hub, qinsight or '
                        'visualquality-r1')
    parser.add_argument('--json', action='store_true', help='print the metadata as JSON')
    parser.add_argument('--prompts', metavar='FILE', help='YAML file with what a reasoning model is asked instead')
    parser.add_argument('--rating-range', nargs=2, type=float, metavar=('LOW', 'HIGH'),
                        help='scale of a reasoning model whose folder does not say')
    parser.add_examples(
        ('pyiqa-rali info rali-lite', ''),
        ('pyiqa-rali info rali.safetensors --json', ''),
        ('pyiqa-rali info qinsight', 'what the published model will be asked'))


def run(args: argparse.Namespace) -> int:
    """Print the metadata of a checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing, broken, or not one of ours.
        OptionError: prompts or a scale are given for a checkpoint that takes no prompt.
    """
    from pyiqa_rali.data.training_images import record_in, told_of
    from pyiqa_rali.model.checkpoint import load_checkpoint
    if is_reasoning_model(args.checkpoint):
        from pyiqa_rali.vlm.settings import ReasonerSettings
        model, rating_range, release = published_model(args.checkpoint, args.rating_range)
        found = ReasonerSettings(model, rating_range=rating_range, prompts=args.prompts, release=release).info()
        print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else '\n'.join(readable(found)))
        return 0
    refuse_changed(args, {'prompts': None, 'rating_range': None},
                   f'{args.checkpoint} is not a reasoning model, and is asked nothing')
    path = _path_of(args.checkpoint)
    tensors, metadata = load_checkpoint(path)
    if args.json:
        print(json.dumps(metadata, indent=2, ensure_ascii=False))
        return 0
    pca_dim, feature_dim = tensors['scorer.pca_components'].shape
    found = {'file': str(path), **metadata, 'training_images': told_of(record_in(metadata, path)),
             'parameters': _parameters(tensors), 'bank': _bank(metadata), 'diagnosis': _diagnosis(metadata),
             'interval': _interval(metadata), 'prompts': _prompts(metadata),
             'scorer': {'features (C)': feature_dim, 'components (D)': pca_dim,
                        'basis vectors (K)': len(tensors['scorer.basis_scores'])}}
    print('\n'.join(readable(found)))
    return 0


def is_reasoning_model(checkpoint: str) -> bool:
    """Whether this names a reasoning model: a published one, a repository, or a folder with a configuration of transformers."""
    from pyiqa_rali.core.hub import is_hub_name
    folder = Path(checkpoint).expanduser()
    if not folder.exists():
        return published_model(checkpoint, None)[2] is not None or is_hub_name(checkpoint)
    return any((folder / name).is_file() for name in ('config.json', 'adapter_config.json'))


def _path_of(checkpoint: str) -> str:
    """Return the embedded file for `rali-lite` and `rali-lite-v1`; a path stays as it is, and nothing is downloaded."""
    from pyiqa_rali.model.locate import EMBEDDED, locate_checkpoint
    if checkpoint not in EMBEDDED:
        return checkpoint
    return str(locate_checkpoint(checkpoint))


def _bank(metadata: dict[str, Any]) -> str | dict[str, Any]:
    """Return the text bank in short; --json shows its texts."""
    bank = metadata.get('bank')
    if bank is None:
        return 'none: it cannot explain its scores (add one with python -m pyiqa_rali add-bank)'
    known = [pairs for pairs in bank['distortions'] if pairs is not None]
    return {'texts (B)': len(bank['texts']), 'texts with known distortions': len(known),
            'types of distortion': len({name for pairs in known for name, _ in pairs}),
            'written by': ', '.join(sorted({str(model) for model in bank.get('models', ()) if model is not None})) or 'unknown',
            'temperature': bank['temperature'], 'made': bank.get('made', {})}


def _diagnosis(metadata: dict[str, Any]) -> str | dict[str, Any]:
    """Return the diagnosis in short; --json shows all of it."""
    found = metadata.get('diagnosis')
    if found is None:
        return 'none: votes are those of the bank, and there are no aspects (python -m pyiqa_rali add-diagnosis)'
    return {'classes': len(found['classes']), 'aspects': list(dict.fromkeys(found['faults'].values())),
            'faults': list(found['faults']), 'made': found.get('made', {})}


def _interval(metadata: dict[str, Any]) -> str | dict[str, Any]:
    """Return what the intervals rest on."""
    found = metadata.get('interval')
    if found is None:
        return 'no interval: it was not calibrated (python -m pyiqa_rali calibrate)'
    low, high = metadata['mos_range']
    return {'calibrated on': f'{found["images"]} images of {", ".join(found["calibrated_on"])}',
            'half width of 90 %, on average': round(found['half_width'] * (high - low), 3), 'signals': found['signals'],
            'references (M)': found['references'], 'false alarms': found['false_alarms']}


def _prompts(metadata: dict[str, Any]) -> str | dict[str, Any]:
    """Return what alignment with prompts was learned from."""
    found = metadata.get('prompts')
    if found is None:
        return 'none: it has no alignment with prompts'
    return {'learned from': found.get('learned_from', []), 'mos_range': found['mos_range'],
            'lower_better': found['lower_better']}


def _parameters(tensors: dict[str, Any]) -> str:
    encoder = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith('image_encoder.'))
    every = sum(tensor.numel() for name, tensor in tensors.items() if not name.startswith(('bank.', 'interval.')))
    text = sum(tensor.numel() for name, tensor in tensors.items() if name.startswith('text_tower.'))
    also = f', {text / 1e6:.2f} million in the text tower' if text else ''
    return f'{every / 1e6:.2f} million, {encoder / 1e6:.2f} million of them in the image encoder{also}'


def readable(values: dict[str, Any], indent: str = '') -> list[str]:
    """Return one line for each value, sections indented.

    Example:
        >>> readable({'mos_range': [1, 5], 'training': {'seed': 3}})
        ['mos_range: 1, 5', 'training:', '  seed: 3']
    """
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f'{indent}{name}:', *readable(value, indent + '  ')]
        else:
            shown = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
            first, *more = shown.rstrip('\n').split('\n')
            lines += [f'{indent}{name}: {first}', *(f'{indent}  {line}' for line in more)]
    return lines
