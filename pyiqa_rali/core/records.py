"""What a run records as it goes: a CSV that survives interruptions, and TensorBoard."""

from pathlib import Path
from typing import Any

from pyiqa_rali.core.runs import CsvRows, RowFile, rows_of_steps


class RunRecord:
    """One CSV row and one TensorBoard point per call; rows after the resumed step are dropped.

    Args:
        path: the CSV file.
        columns: names of the values; the first column is the step.
        start_step: rows at or after this step are from an interrupted run and are written again.
        tb_folder: folder for TensorBoard; None switches it off.
    """

    def __init__(self, path: Path, columns: list[str], start_step: int = 0, tb_folder: Path | None = None):
        self.path, self.columns = path, columns
        self._rows = rows_of_steps(path, columns, start_step)
        self._writer = _summary_writer(tb_folder, start_step)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one step's values; those that are not given stay empty."""
        self._rows.add([{'step': step, **values}])
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f'{self.path.stem}/{name}', value, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()


def _summary_writer(folder: Path | None, start_step: int) -> Any:
    if folder is None:
        return None
    from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder), purge_step=start_step or None)


def read_record(path: Path) -> list[dict[str, float]]:
    """Return the rows of a record as numbers; empty cells are left out, and so is a last row cut short by a kill.

    Raises:
        DataError: a row is damaged.
    """
    return list(RowFile(path, CsvRows(parse=_numbers), kind='a record of steps').read())


def _numbers(row: dict[str, str]) -> dict[str, float]:
    numbers = {name: float(value) for name, value in row.items() if value != ''}
    return {**numbers, 'step': int(numbers['step'])}
