"""What a reasoning model writes greedily on images, kept in a file as it is written."""

from collections.abc import Sequence

from tqdm import tqdm

from pyiqa_rali.studies.analyses.folder import RowFile
from pyiqa_rali.vlm.generation import complete, decode
from pyiqa_rali.vlm.loading import ReasoningModel
from pyiqa_rali.vlm.tables import read_picture


def greedy_completions(reasoner: ReasoningModel, paths: Sequence[str], rows: RowFile, max_new_tokens: int,
                       batch_size: int) -> list[list[int]]:
    """Return the token ids of one completion for each image; those that stand in the file are not written again."""
    left = [path for path in paths if path not in rows.done]
    with tqdm(total=len(paths), initial=len(paths) - len(left), desc='reasoning', unit='image') as bar:
        for start in range(0, len(left), batch_size):
            chunk = left[start:start + batch_size]
            found = complete(reasoner, [read_picture(path) for path in chunk], reasoner.card.question(), max_new_tokens)
            rows.add([{'key': path, 'tokens': tokens, 'text': decode(reasoner, tokens)}
                      for path, tokens in zip(chunk, found, strict=True)])
            bar.update(len(chunk))
    return [rows.done[path]['tokens'] for path in paths]
