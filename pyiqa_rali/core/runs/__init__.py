"""One resumable store: folders that know what they were begun with, and rows that survive a kill at any moment.

Work that takes hours is started again after a kill, and continues only if it is still the same work. Each such folder has a
record, a small file of all that its other files depend on; `claim_folder` and `claim_run` write it, or reject the folder when
the record says something else. Results that come one by one are rows of a `RowFile`, which grows by whole rows.
"""

from pyiqa_rali.core.runs.claims import (
    EARLIER,
    MAY_CHANGE,
    Difference,
    claim_folder,
    claim_run,
    differences,
    read_claim,
    refuse_differences,
    refuse_foreign,
)
from pyiqa_rali.core.runs.rows import CsvRows, JsonRows, KeyedRows, RowFile, rows_of_steps

__all__ = ['EARLIER', 'MAY_CHANGE', 'CsvRows', 'Difference', 'JsonRows', 'KeyedRows', 'RowFile', 'claim_folder', 'claim_run',
           'differences', 'read_claim', 'refuse_differences', 'refuse_foreign', 'rows_of_steps']
