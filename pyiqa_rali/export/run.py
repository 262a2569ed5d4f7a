"""Exporting a metric: the ONNX model, its 8-bit variant, and a report on what both cost in accuracy and gain in time."""

import logging
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.core.files import write_json

if TYPE_CHECKING:
    from pyiqa_rali.data.photographs import Photograph
    from pyiqa_rali.model.rali import RALI

METRICS = ('rali-lite', 'rali')
BUNDLED = 'bundled'  # in place of a folder: the photographs that the dependencies install
FEWEST_COMPARED = 3  # pictures: fewer have no correlation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8Options:
    """How the 8-bit variant is made; all of it matters to convolutional models only.

    Attributes:
        photographs: a folder, or `BUNDLED`; the ranges of activations are measured on distorted versions of these.
        pictures: number of distorted pictures.
        keep_float: number of first convolutions that are not quantised: more cost time, fewer cost accuracy. None takes
            `int8.KEEP_FLOAT`.

    Raises:
        OptionError: a number is too small.
    """

    photographs: str = BUNDLED
    pictures: int = 48
    keep_float: int | None = None

    def __post_init__(self) -> None:
        _check_at_least('--calibration-pictures', self.pictures, 1)
        _check_at_least('--keep-float', self.keep_float, 0)


@dataclass(frozen=True)
class ComparisonOptions:
    """The pictures on which the exported models are compared with torch.

    Attributes:
        photographs: a folder, or `BUNDLED`.
        pictures: number of distorted pictures.

    Raises:
        OptionError: there are too few pictures for a correlation.
    """

    photographs: str = BUNDLED
    pictures: int = 100

    def __post_init__(self) -> None:
        _check_at_least('--pictures', self.pictures, FEWEST_COMPARED)


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        models: the files, under 'float' and, with an 8-bit variant, 'int8'.
        report: 'source', 'machine', and the measurements: 'float', 'int8' and 'comparison', as far as they were requested.
        report_file: the same as JSON, beside the model.
    """

    models: dict[str, Path]
    report: dict[str, Any]
    report_file: Path


def export_metric(out: str | os.PathLike[str], metric: str | None = None, weights: str | os.PathLike[str] | None = None,
                  opset: int | None = None, int8: Int8Options | None = None,
                  comparison: ComparisonOptions | None = None, interval: float | None = None) -> Export:
    """Write a metric as an ONNX file, check it, and measure what was asked for.

    Args:
        out: the file, `*.onnx`; the 8-bit variant and the report are written beside it.
        metric: 'rali-lite' or 'rali'; None takes 'rali-lite'.
        weights: a file or folder of an export instead.
        opset: version of ONNX's operators; None takes `DEFAULT_OPSET`.
        int8: write an 8-bit variant too.
        comparison: compare scores and times with those of torch.
        interval: also put out the ends of intervals that hold the MOS of so many images in a hundred, such as 90, and whether
            a picture is unlike those of the calibration.

    Raises:
        OptionError: an argument cannot be used, or packages are missing; nothing has been written.
        CheckpointError: the weights cannot be read, or the file does not give the scores of torch.
        DataError: photographs cannot be read.
    """
    from pyiqa_rali.model.interval import coverage_of
    out = Path(out)
    check_arguments(out, metric, opset)
    coverage = None if interval is None else coverage_of(interval)
    compared = photographs_of(comparison.photographs) if comparison else []
    calibration = photographs_of(int8.photographs) if int8 else []
    net = load_net(metric, weights)
    logger.info('Exporting, which takes a minute or two.')
    models = {'float': out}
    report: dict[str, Any] = {'source': os.fspath(weights or metric or METRICS[0]), 'machine': machine(),
                              'float': _export_float(net, out, opset, coverage)}
    if int8:
        models['int8'] = out.with_suffix('.int8.onnx')
        report['int8'] = _export_int8(out, models['int8'], calibration, int8)
    if comparison:
        from pyiqa_rali.export.comparison import compare
        from pyiqa_rali.export.pictures import distorted_pictures
        pictures = distorted_pictures(compared, comparison.pictures, seed=1)
        report['comparison'] = {'photographs': comparison.photographs, **compare(net, models, pictures)}
    report_file = out.with_suffix('.json')
    write_json(report_file, report)
    return Export(models, report, report_file)


def check_arguments(out: Path, metric: str | None, opset: int | None) -> None:
    """Raise OptionError for what cannot be used, before anything is loaded."""
    if out.suffix != '.onnx':
        raise OptionError(f'OUT: {out} must end in .onnx.')
    if metric is not None and metric not in METRICS:
        raise OptionError(f'--metric: "{metric}" is not one of {", ".join(METRICS)}; the weights of a training of your own are '
                          f'given with --weights PATH.{did_you_mean(metric, METRICS)}')
    if opset is not None:
        from pyiqa_rali.export.onnx_model import check_opset
        check_opset(opset)
    from pyiqa_rali.model.onnx.network import require_onnx
    require_onnx('export-onnx')


def _check_at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise OptionError(f'{option}: {value} must be at least {least}.')


def photographs_of(folder: str) -> list['Photograph']:
    """Return the photographs of a folder, or those that the dependencies install."""
    from pyiqa_rali.data.photographs import list_photographs
    return list_photographs(None if folder == BUNDLED else folder)


def load_net(metric: str | None, weights: str | os.PathLike[str] | None) -> 'RALI':
    """Return the net on the CPU in float32."""
    from pyiqa_rali.model.rali import RALI
    net = RALI(pretrained_model_path=weights) if weights else RALI(metric or METRICS[0])
    return net.eval().requires_grad_(False)


def machine() -> dict[str, str]:
    """Return what the measurements were made on."""
    import onnxruntime
    import torch
    return {'cpu': platform.processor() or platform.machine(), 'torch': torch.__version__,
            'onnxruntime': onnxruntime.__version__}


def _export_float(net: 'RALI', out: Path, opset: int | None, coverage: float | None) -> dict[str, Any]:
    """Write the model if it agrees with torch, and return what is reported about it."""
    from pyiqa_rali.export.onnx_model import onnx_model, save_model
    from pyiqa_rali.model.onnx.agreement import check_agreement
    from pyiqa_rali.model.onnx.network import DEFAULT_OPSET
    model = onnx_model(net, opset or DEFAULT_OPSET, coverage)
    agreement = save_model(out, model, lambda path: check_agreement(path, net, str(out)))
    told = {} if coverage is None else {'interval': round(100 * coverage, 6)}
    return {'file': out.name, 'megabytes': _megabytes(out), 'opset': opset or DEFAULT_OPSET, **told, **agreement}


def _export_int8(source: Path, target: Path, photographs: list['Photograph'], options: Int8Options) -> dict[str, Any]:
    """Write the 8-bit model, and return what is reported about it."""
    from pyiqa_rali.export.int8 import KEEP_FLOAT, quantise
    from pyiqa_rali.export.pictures import distorted_pictures
    keep = KEEP_FLOAT if options.keep_float is None else options.keep_float
    note = quantise(source, target, distorted_pictures(photographs, options.pictures), keep)
    used = {'calibration_photographs': options.photographs} if note['method'] == 'static' else {}
    return {'file': target.name, 'megabytes': _megabytes(target), **note, **used}


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
