"""A checkpoint to the hub, with a page about it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyiqa_rali.core.errors import CheckpointError
from pyiqa_rali.core.hub_push import Pushed, check_repository, push_files
from pyiqa_rali.report.model_card import card_text, rali_facts, read_evaluation, reasoning_facts

README = 'README.md'
LEFT_OUT = ('.part', '.tmp', '.pt', '.pth', '.pkl')  # of a reasoning model's folder: pickles are not published
STATE_OF_TRAINING = 'training_args.bin'


@dataclass(frozen=True)
class Upload:
    """What is to be pushed.

    Attributes:
        repository: 'owner/name'.
        files: content, or the file that holds it, by the path in the repository; the page among them.
        kind: 'RALI' or 'ReasoningScorer'.
    """

    repository: str
    files: dict[str, bytes | Path]
    kind: str

    @property
    def card(self) -> str:
        """The page."""
        return bytes(self.files[README]).decode()

    def push(self, message: str | None = None, private: bool = False, revision: str | None = None) -> Pushed:
        """Write everything in one commit; see `core.hub_push.push_files`."""
        return push_files(self.repository, self.files, message or f'{self.kind} by pyiqa-rali', private, revision)


def prepare_upload(checkpoint: str | os.PathLike, repository: str, *, licence: str | None = None,
                   results: Sequence[str | os.PathLike] = (), limits: str = '') -> Upload:
    """Return the files of a checkpoint and the page about it; nothing is sent.

    Args:
        checkpoint: file or folder of an export of RALI, 'rali-lite', or the folder of a reasoning model.
        repository: 'owner/name'.
        licence: as the hub names licences, such as apache-2.0; None takes the checkpoint's own.
        results: folders of `pyiqa-rali evaluate` in which exactly these weights were measured.
        limits: Markdown about what the checkpoint is not good for.

    Raises:
        CheckpointError: it cannot be read, or the repository's name cannot be used.
        OptionError: no licence is known.
        DataError: results are about other weights.
    """
    check_repository(repository)
    path = Path(checkpoint).expanduser()
    if path.is_dir() and any((path / name).is_file() for name in ('config.json', 'adapter_config.json')) and not (
            path / 'rali.safetensors').is_file():
        return _reasoning_upload(path, repository, licence, results, limits)
    return _rali_upload(os.fspath(checkpoint), repository, licence, results, limits)


def _rali_upload(checkpoint: str, repository: str, licence: str | None, results: Sequence[str | os.PathLike],
                 limits: str) -> Upload:
    import tempfile

    from pyiqa_rali.data.training_images import record_in, told_of
    from pyiqa_rali.model.checkpoint import FILE_NAME, checkpoint_file, load_checkpoint, save_checkpoint
    from pyiqa_rali.model.digest import weights_digest
    from pyiqa_rali.model.locate import locate_checkpoint
    from pyiqa_rali.model.rali import RALI
    file = checkpoint_file(locate_checkpoint(checkpoint))
    net = RALI(pretrained_model_path=file)  # what cannot be loaded is not published
    digest = weights_digest(net) if results else ''
    evaluations = [read_evaluation(folder, lambda metric: metric['weights_sha256'] == digest) for folder in results]
    count = sum(parameter.numel() for parameter in net.parameters())
    facts = rali_facts(repository, net.metadata, net.score_range, f'{count / 1e6:.2f} million',
                       told_of(record_in(net.metadata, file)), licence, evaluations, limits)
    content: bytes | Path = file
    if file.suffix != '.safetensors':  # pickles are not published
        with tempfile.TemporaryDirectory(prefix='pyiqa-rali-') as folder:
            save_checkpoint(Path(folder) / FILE_NAME, *load_checkpoint(file))
            content = (Path(folder) / FILE_NAME).read_bytes()
    return Upload(repository, {README: card_text(facts).encode(), FILE_NAME: content}, 'RALI')


def _reasoning_upload(folder: Path, repository: str, licence: str | None, results: Sequence[str | os.PathLike],
                      limits: str) -> Upload:
    from pyiqa_rali.data.training_images import record_beside, told_of
    from pyiqa_rali.vlm.prompts import CARD_FILE, read_card
    card = read_card(folder)
    if card is None:
        raise CheckpointError(f'{folder}: has no {CARD_FILE}, which says what the model is asked and on which scale it rates. '
                              'Push the folder "models/reasoning" of a training.')
    same = folder.resolve()
    evaluations = [read_evaluation(each, lambda metric: same == Path(str(
        metric.get('options', {}).get('pretrained_model_path', ''))).expanduser().resolve()) for each in results]
    facts = reasoning_facts(repository, folder, card, told_of(record_beside(folder)), licence, evaluations, limits)
    files: dict[str, bytes | Path] = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob('*'))
                                      if path.is_file() and path.suffix not in LEFT_OUT and path.name != STATE_OF_TRAINING
                                      and not path.name.startswith('.')}
    return Upload(repository, {**files, README: card_text(facts).encode()}, 'ReasoningScorer')
