"""Export a metric, with its preprocessing, as ONNX, and check it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.cli.arguments import CommandParser

if TYPE_CHECKING:
    from pyiqa_rali.data.photographs import Photograph

BUNDLED = 'bundled'
INT8 = {'calibrate': BUNDLED, 'calibration_pictures': 48, 'keep_float': None}  # defaults


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('out', metavar='OUT.onnx', help='the file to write')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite)')
    source.add_argument('--weights', metavar='PATH', help='file or folder of an export instead')
    parser.add_argument('--opset', type=int, metavar='N', help="version of ONNX's operators, 18 to 22 (default: 20)")
    parser.add_argument('--check', metavar='PHOTOS', help='compare with torch on distorted photographs of this folder, for '
                                                          f'accuracy and time; "{BUNDLED}" takes those that scikit-image and '
                                                          'pyiqa install')
    parser.add_argument('--pictures', type=int, default=100, metavar='N',
                        help='distorted pictures of --check (default: %(default)s)')
    small = parser.add_argument_group('8 bits')
    small.add_argument('--int8', action='store_true', help='write OUT.int8.onnx too')
    small.add_argument('--calibrate', metavar='PHOTOS', default=INT8['calibrate'],
                       help='folder of photographs on which a convolutional model measures its ranges (default: %(default)s)')
    small.add_argument('--calibration-pictures', type=int, default=INT8['calibration_pictures'], metavar='N',
                       help='distorted pictures for it (default: %(default)s)')
    small.add_argument('--keep-float', type=int, metavar='N',
                       help='first convolutions that are not quantised: more cost time, fewer cost accuracy (default: 6)')
    parser.add_examples(
        ('pyiqa-rali export-onnx rali-lite.onnx', ''),
        ('pyiqa-rali export-onnx demo.onnx --weights rali.safetensors', ''),
        ('pyiqa-rali export-onnx rali-lite.onnx --int8 --check bundled', 'accuracy and time of both files'),
        notes='The file takes "images", float32 (N, 3, H, W), RGB in [0, 1], of any number and size from 16 x 16, and gives '
              '"score", float32 (N, 1). It is kept only if its scores equal those of torch to 1e-4 of the range. Measurements '
              'go into a JSON file beside it.')


def run(args: argparse.Namespace) -> int:
    """Export, check, and write the figures.

    Raises:
        OptionError: an argument that cannot be used, or packages are missing.
        CheckpointError: the weights cannot be read, or the file does not give the scores of torch.
        DataError: photographs that cannot be read.
    """
    from pyiqa_rali.core.files import write_json
    check_arguments(args)
    out = Path(args.out)
    checked = photographs_of(args.check) if args.check is not None else []
    calibration = photographs_of(args.calibrate) if args.int8 else []
    net = load_net(args.metric, args.weights)
    report: dict[str, Any] = {'source': args.weights or args.metric or 'rali-lite', 'machine': machine(),
                              'float': export_float(net, out, args.opset)}
    models = {'float': out}
    if args.int8:
        models['int8'] = out.with_suffix('.int8.onnx')
        report['int8'] = export_int8(out, models['int8'], calibration, args)
    if args.check:
        from pyiqa_rali.export.comparison import compare
        from pyiqa_rali.export.pictures import distorted_pictures
        pictures = distorted_pictures(checked, args.pictures, seed=1)
        report['comparison'] = {'photographs': args.check, **compare(net, models, pictures)}
        print(comparison_text(report['comparison']))
    elif args.int8:
        print('What 8 bits cost in accuracy was not measured; --check PHOTOS measures it.')
    write_json(out.with_suffix('.json'), report)
    print(f'The figures are in {out.with_suffix(".json")}.')
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Raise OptionError for what cannot be used, before anything is loaded."""
    from pyiqa_rali.core.errors import OptionError, did_you_mean
    from pyiqa_rali.core.options import refuse_changed
    if not args.out.endswith('.onnx'):
        raise OptionError(f'OUT: {args.out} must end in .onnx.')
    for name, value, least in (('--pictures', args.pictures, 3), ('--calibration-pictures', args.calibration_pictures, 1),
                               ('--keep-float', args.keep_float, 0)):
        if value is not None and value < least:
            raise OptionError(f'{name}: {value} must be at least {least}.')
    if not args.int8:
        refuse_changed(args, INT8, 'is only for --int8')
    known = ('rali-lite', 'rali')
    if args.metric is not None and args.metric not in known:
        raise OptionError(f'--metric: "{args.metric}" is not one of {", ".join(known)}; the weights of an own training are '
                          f'given with --weights PATH.{did_you_mean(args.metric, known)}')
    if args.opset is not None:
        from pyiqa_rali.export.onnx_model import check_opset
        check_opset(args.opset)
    from pyiqa_rali.model.onnx.network import require_onnx
    require_onnx('export-onnx')


def photographs_of(folder: str) -> list['Photograph']:
    """Return the photographs of a folder, or those that the dependencies install."""
    from pyiqa_rali.data.photographs import list_photographs
    return list_photographs(None if folder == BUNDLED else folder)


def load_net(metric: str | None, weights: str | None):
    """Return the net on the CPU in float32."""
    from pyiqa_rali.model.rali import RALI
    net = RALI(pretrained_model_path=weights) if weights else RALI(metric or 'rali-lite')
    return net.eval().requires_grad_(False)


def export_float(net: Any, out: Path, opset: int | None) -> dict[str, Any]:
    """Write the model if it agrees with torch, say so, and return its figures."""
    from pyiqa_rali.export.onnx_model import onnx_model, save_model
    from pyiqa_rali.model.onnx.agreement import check_agreement
    from pyiqa_rali.model.onnx.network import DEFAULT_OPSET
    print('Exporting, which takes a minute or two.', flush=True)
    model = onnx_model(net, opset or DEFAULT_OPSET)
    agreement = save_model(out, model, lambda path: check_agreement(path, net, str(out)))
    print(f'{out}: {megabytes(out):.1f} MB; {len(agreement["sizes"])} batches of other sizes give the scores of torch within '
          f'{agreement["largest_difference"]:.1e} (allowed: {agreement["allowed"]:.1e}).')
    return {'file': out.name, 'megabytes': megabytes(out), 'opset': opset or DEFAULT_OPSET, **agreement}


def export_int8(source: Path, target: Path, photographs: list['Photograph'], args: argparse.Namespace) -> dict[str, Any]:
    """Write the 8-bit model, say how it was made, and return its figures."""
    from pyiqa_rali.export.int8 import KEEP_FLOAT, quantise
    from pyiqa_rali.export.pictures import distorted_pictures
    keep = KEEP_FLOAT if args.keep_float is None else args.keep_float
    note = quantise(source, target, distorted_pictures(photographs, args.calibration_pictures), keep)
    how, used = '', {}
    if note['method'] == 'static':
        how = (f', ranges measured on {note["calibration_pictures"]} distorted photographs ({args.calibrate}), '
               f'{note["float_convolutions"]} of {note["convolutions"]} convolutions in float')
        used = {'calibration_photographs': args.calibrate}
    print(f'{target}: {megabytes(target):.1f} MB, {note["method"]} quantisation{how}.')
    return {'file': target.name, 'megabytes': megabytes(target), **note, **used}


def megabytes(path: Path) -> float:
    """Return the size of a file."""
    return path.stat().st_size / 1e6


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    import platform

    import onnxruntime
    import torch
    return {'cpu': platform.processor() or platform.machine(), 'torch': torch.__version__,
            'onnxruntime': onnxruntime.__version__}


def comparison_text(found: dict[str, Any]) -> str:
    """Return the table for the screen."""
    lines = [f'{found["pictures"]} distorted pictures ({found["photographs"]}), against torch; one thread, '
             f'{found["timed_on"]} pixels',
             f'{"":10}{"PLCC":>8}{"SRCC":>8}{"largest":>10}{"of range":>10}{"ms":>9}{"speed":>8}',
             f'{"torch":10}{"":36}{found["torch"]["milliseconds"]:9.1f}{1:8.2f}']
    for name in ('float', 'int8'):
        if name in found:
            row = found[name]
            lines.append(f'{name:10}{row["plcc"]:8.4f}{row["srcc"]:8.4f}{row["largest_difference"]:10.2g}'
                         f'{row["largest_difference_of_range"]:10.2%}{row["milliseconds"]:9.1f}{row["speed"]:8.2f}')
    return '\n'.join(lines)
