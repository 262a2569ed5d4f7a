"""Export a metric, with its preprocessing, as ONNX, and check it."""

import argparse
from typing import TYPE_CHECKING, Any

from pyiqa_rali.cli.arguments import CommandParser, refuse_changed

if TYPE_CHECKING:
    from pyiqa_rali.export.run import Export

INT8 = {'calibrate': 'bundled', 'calibration_pictures': 48, 'keep_float': None}  # defaults, as `Int8Options` has them


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments."""
    parser.add_argument('out', metavar='OUT.onnx', help='the file to write')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('-m', '--metric', help='rali-lite or rali (default: rali-lite)')
    source.add_argument('--weights', metavar='PATH', help='file or folder of an export instead')
    parser.add_argument('--opset', type=int, metavar='N', help="version of ONNX's operators, 18 to 22 (default: 20)")
    parser.add_argument('--interval', type=float, metavar='PERCENT', help='also "low", "high" and "unlike" of intervals '
                        'that hold the MOS of so many images in a hundred')
    parser.add_argument('--check', metavar='PHOTOS', help='compare with torch on distorted photographs of this folder, for '
                                                          'accuracy and time; "bundled" takes those that scikit-image and '
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
    """Export, and print what was written and measured.

    Raises:
        OptionError: an argument that cannot be used, or packages are missing.
        CheckpointError: the weights cannot be read, or the file does not give the scores of torch.
        DataError: photographs that cannot be read.
    """
    from pyiqa_rali.export.run import ComparisonOptions, Int8Options, export_metric
    # both check their numbers, which are wrong without --int8 and --check too
    int8 = Int8Options(args.calibrate, args.calibration_pictures, args.keep_float)
    comparison = ComparisonOptions(args.check or 'bundled', args.pictures)
    if not args.int8:
        refuse_changed(args, INT8, 'is only for --int8')
    found = export_metric(args.out, args.metric, args.weights, args.opset, int8 if args.int8 else None,
                          comparison if args.check is not None else None, args.interval)
    print('\n'.join(lines_of(found)))
    return 0


def lines_of(found: 'Export') -> list[str]:
    """Return what is printed about an export."""
    own = found.report['float']
    lines = [f'{found.models["float"]}: {own["megabytes"]:.1f} MB; {len(own["sizes"])} batches of other sizes give the scores '
             f'of torch within {own["largest_difference"]:.1e} (allowed: {own["allowed"]:.1e}).']
    if 'int8' in found.models:
        lines.append(f'{found.models["int8"]}: {found.report["int8"]["megabytes"]:.1f} MB, {int8_text(found.report["int8"])}.')
    if 'comparison' in found.report:
        lines.append(comparison_text(found.report['comparison']))
    elif 'int8' in found.models:
        lines.append('What 8 bits cost in accuracy was not measured; --check PHOTOS measures it.')
    return [*lines, f'The measurements are in {found.report_file}.']


def int8_text(note: dict[str, Any]) -> str:
    """Return how the 8-bit model was made."""
    if note['method'] != 'static':
        return f'{note["method"]} quantisation'
    return (f'static quantisation, ranges measured on {note["calibration_pictures"]} distorted photographs '
            f'({note["calibration_photographs"]}), {note["float_convolutions"]} of {note["convolutions"]} convolutions '
            'in float')


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
