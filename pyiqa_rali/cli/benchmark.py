"""Measure time, memory and scores beside the release and others."""

import argparse
import sys

from pyiqa_rali.cli.arguments import CommandParser


def add_arguments(parser: CommandParser) -> None:
    """Declare the arguments; what is not given comes from the preset."""
    parser.add_argument('--preset', default='quick', help='quick, full, gpu (default: %(default)s, a few minutes)')
    parser.add_argument('--out', default='experiments/benchmark', metavar='DIR', help='rows, CSV, table, figures (%(default)s)')
    parser.add_argument('--resume', action='store_true', help='continue what is in --out; axes may have grown')
    axes = parser.add_argument_group("axes, instead of the preset's")
    axes.add_argument('-m', '--metrics', nargs='+', metavar='NAME',
                      help='release, rali, rali-lite, and any no-reference metric of pyiqa')
    axes.add_argument('--precisions', nargs='+', metavar='P', help='of our metrics: fp32, bf16, fp16')
    axes.add_argument('--backends', nargs='+', metavar='B', help='of rali-lite on CPUs: torch, onnx')
    axes.add_argument('--sizes', nargs='+', metavar='WxH', help='of the pictures, such as 512x384')
    axes.add_argument('--peer-sizes', nargs='+', metavar='WxH',
                      help='for the other metrics of pyiqa (default with --sizes: the same)')
    axes.add_argument('--batches', nargs='+', type=int, metavar='N', help='pictures in a call')
    axes.add_argument('--threads', nargs='+', metavar='N', help='of torch; all are as many as the process may use')
    axes.add_argument('--inputs', nargs='+', metavar='KIND', help='file, tensor, resident, tower')
    axes.add_argument('--device', help='cpu, cuda or cuda:N')
    more = parser.add_rare_group('measuring')
    more.add_argument('--repeats', type=int, metavar='N', help='timed calls of a cell, after one that is not')
    more.add_argument('--starts', type=int, metavar='N', help='processes whose time to the first score is measured')
    more.add_argument('--seconds', type=float, metavar='S', help='start no further call of a cell after this time')
    more.add_argument('--call-limit', type=float, metavar='S', help='leave out cells with longer calls')
    more.add_argument('--check-images', type=int, metavar='N', help='pictures whose scores are compared; 0 for none')
    more.add_argument('--image', help='picture (default: a photograph that scikit-image installs)')
    more.add_argument('--encoder', help='of rali and release: ViT-L/14-336 or tiny')
    more.add_argument('--weights-folder', metavar='DIR', help='keep the random weights here (default: a temporary folder)')
    more = parser.add_rare_group('the pipeline of score')
    more.add_argument('--pipeline-images', type=int, metavar='N', help='JPEG files that `score` is timed on; 0 for none')
    more.add_argument('--pipeline-metrics', nargs='+', metavar='NAME', help='(default: rali-lite)')
    more.add_argument('--pipeline-sizes', nargs='+', metavar='WxH', help='of those files')
    more.add_argument('--workers', nargs='+', type=int, metavar='N', help='of `score`')
    more = parser.add_rare_group('a language model beside it')
    more.add_argument('--reasoner', metavar='SIZE', help='compare with a Qwen2.5-VL that writes: 7b (needs 40 GB), tiny')
    more.add_argument('--reasoner-batch', type=int, metavar='N', help='pictures (default: 16)')
    more.add_argument('--reasoner-tokens', type=int, metavar='N', help='tokens (default: 100)')
    parser.add_examples(
        ('pyiqa-rali benchmark', 'a few minutes'),
        ('pyiqa-rali benchmark -m release rali --threads 1 all --out threads', ''),
        ('pyiqa-rali benchmark --preset gpu --out gpu', 'on a machine with a GPU'),
        notes='"rali" and "release" (its own path: PIL, CLIPProcessor, CLIPModel, float32) read the same random weights from '
              'files. Rows are kept as they are measured; --resume continues from them.')


def run(args: argparse.Namespace) -> int:
    """Measure what is missing, and print the tables, also those of a benchmark that was interrupted.

    Returns:
        0; 1 when cells have no result because something failed.

    Raises:
        OptionError, DataError: nothing can be measured; the message says why.
    """
    from pyiqa_rali.studies.benchmark.options import benchmark_options, size_of
    from pyiqa_rali.studies.benchmark.run import Benchmark
    of_command = ('command', 'preset', 'out', 'resume', 'weights_folder', 'log_format')
    changes = {name: value for name, value in vars(args).items() if name not in of_command}
    for name in ('sizes', 'peer_sizes', 'pipeline_sizes'):
        if changes[name] is not None:
            changes[name] = [size_of(f'--{name.replace("_", "-")}', text) for text in changes[name]]
    benchmark = Benchmark(benchmark_options(args.preset, **changes), args.out, args.resume, args.weights_folder)
    try:
        benchmark.measure()
    finally:
        if benchmark.rows:
            found = benchmark.report()
            print(found.text)
            drawn = ', '.join(path.name for path in found.figures)
            print(f'{found.table}, {drawn} in {found.root / "figures"}', file=sys.stderr)
    return int(bool(benchmark.rows) and bool(found.failed))
