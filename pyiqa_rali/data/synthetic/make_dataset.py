"""A data set on disk from photographs: distorted pictures, pyiqa's table, reasoning texts; parallel and resumable."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path

import torch

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.files import remove_leftovers
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.data.photographs import check_sizes, list_photographs
from pyiqa_rali.data.synthetic.blocks import make_block, read_record
from pyiqa_rali.data.synthetic.pseudo_mos import PseudoMos, load_calibration
from pyiqa_rali.data.synthetic.settings import (
    IMAGES,
    RECORDS,
    Block,
    DatasetSettings,
    check_settings,
    claim_dataset,
    plan,
)
from pyiqa_rali.data.synthetic.tables import split_columns, write_tables


def make_dataset(settings: DatasetSettings, workers: int = 1) -> int:
    """Make what is missing of a data set, and return how many pictures it has.

    Killed at any moment and started again with the same options, it continues to the same files.

    Args:
        settings: what to make.
        workers: processes; each uses one thread. 1 works in this process.

    Raises:
        OptionError: an option that cannot be used, or a folder that holds something else.
        DataError: photographs that cannot be read, are too small, or too few for the split.
        OSError: the folder cannot be written.
    """
    check_settings(settings)
    if workers < 1:
        raise OptionError(f'workers: {workers} must be at least 1.')
    PseudoMos(settings.metrics, load_calibration(settings.calibration)).measure.check_size(settings.size)
    photographs = list_photographs(settings.photos, settings.groups)
    check_sizes(photographs, settings.size)
    split_columns(settings, photographs)
    claim_dataset(settings, photographs)
    for part in ('', IMAGES, RECORDS):
        remove_leftovers(Path(settings.out) / part)
    blocks = plan(settings, photographs)
    missing = [block for block in blocks if read_record(settings, block) is None]
    with progress_bar(total=len(blocks), initial=len(blocks) - len(missing), desc='make-dataset', unit='block') as progress:
        for _ in _work(settings, missing, min(workers, len(missing))):
            progress.update()
    made = [record for block in blocks if (record := read_record(settings, block)) is not None]
    return write_tables(settings, photographs, made)


def _work(settings: DatasetSettings, blocks: list[Block], workers: int) -> Iterator[int]:
    """Yield the number of pictures of each block as it is finished."""
    if workers < 2:
        with _one_thread():
            for block in blocks:
                yield make_block(settings, block)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context('spawn'), initializer=_start_worker) as pool:
        futures = [pool.submit(make_block, settings, block) for block in blocks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Use one thread, leave Ctrl-C to the parent, and end with it, also when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
