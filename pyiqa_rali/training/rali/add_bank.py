"""Adding a text bank to a checkpoint that has none, from a file of texts or from the option file of its training."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pyiqa_rali.core.errors import CheckpointError, OptionError
from pyiqa_rali.core.options import checked
from pyiqa_rali.data.sections import dataset_section, sections_for
from pyiqa_rali.data.tables import build_table
from pyiqa_rali.model.checkpoint import load_checkpoint, write_checkpoint
from pyiqa_rali.model.checkpoint_bank import with_bank
from pyiqa_rali.model.locate import locate_checkpoint
from pyiqa_rali.training.rali.bank import bank_of_run, candidates_of_file, make_bank
from pyiqa_rali.training.rali.batches import alignment_dataset
from pyiqa_rali.training.rali.options import BankOptions, train_options
from pyiqa_rali.training.rali.text_encoders import load_text_encoder
from pyiqa_rali.training.rali.towers import build_towers


@dataclass
class AddedBank:
    """A checkpoint with its new bank.

    Attributes:
        path: the file that was written.
        texts: how many texts the bank has.
        candidates: how many different ones it was chosen from.
        known: how many of the texts have known distortions.
        types: how many types of distortion these are.
        megabytes: what the bank adds to the file.
    """

    path: Path
    texts: int
    candidates: int
    known: int
    types: int
    megabytes: float


def add_bank(checkpoint: str | os.PathLike, out: str | os.PathLike, *, texts: str | os.PathLike | None = None,
             options: Mapping[str, Any] | None = None, text_encoder: str | None = None, split_sentences: bool = False,
             num_texts: int | None = None, num_candidates: int | None = None, selection: str | None = None,
             temperature: float | None = None, seed: int = 0) -> AddedBank:
    """Choose texts, encode them, and write the checkpoint with them; its scores stay as they are.

    The text encoder must be the one that the images were aligned with.

    Args:
        checkpoint: file or folder of an export, a released folder, or 'rali-lite'.
        out: the .safetensors or .pth file to write.
        texts: reasoning texts as JSON lines; or `options`.
        options: the option file of the checkpoint's training, as read from YAML: its training texts and text encoder are used.
        text_encoder: with `texts`: folder or repository of a sentence encoder or of a CLIP; None takes the one that the
            checkpoint names.
        split_sentences: with `texts`: encode each sentence by itself, as in training with split_sentences.
        num_texts: texts in the bank; None, here and below, takes the section `bank` of the options, or its default.
        num_candidates: number of texts, drawn at random, among which the choice is made.
        selection: 'kmeans' or 'farthest'.
        temperature: of the votes.
        seed: of the choice.

    Raises:
        OptionError, DataError, CheckpointError: with what to do.
    """
    if (texts is None) == (options is None):
        raise OptionError('texts, options: give one of them: a file of reasoning texts, or the options of the training.')
    given = {'num_texts': num_texts, 'num_candidates': num_candidates, 'selection': selection, 'temperature': temperature}
    changes = {name: value for name, value in given.items() if value is not None}
    tensors, metadata = load_checkpoint(locate_checkpoint(str(checkpoint)))
    if options is not None:
        if text_encoder or split_sentences:
            raise OptionError('text_encoder, split_sentences: are only for --texts; an option file names its own text encoder.')
        features, bank = _from_options(options, changes, seed)
    else:
        path, split = _encoder_of(str(checkpoint), metadata, text_encoder)
        origin = {'texts': Path(str(texts)).name, 'text_encoder': path}
        features, bank = make_bank(candidates_of_file(str(texts)), load_text_encoder(path, split_sentences or split),
                                   _changed(BankOptions(), changes), seed, origin)
    write_checkpoint(out, *with_bank(tensors, metadata, features, bank))
    known = [pairs for pairs in bank['distortions'] if pairs is not None]
    size = features.numel() * features.element_size() + len(json.dumps(bank))
    return AddedBank(Path(out), len(bank['texts']), bank['made']['candidates'], len(known),
                     len({name for pairs in known for name, _ in pairs}), size / 1e6)


def _from_options(values: Mapping[str, Any], changes: dict[str, Any], seed: int) -> tuple[Tensor, dict[str, Any]]:
    """Return features and metadata of a bank from a run's option file."""
    options = train_options(dict(values))
    if options.text_encoder.train:
        raise OptionError('text_encoder: train: true: the trained text encoder is not kept after a run. Train with a section '
                          '"bank:" in the option file.')
    towers = build_towers(options.network, options.text_encoder, options.path)
    sections = [dataset_section(name, options.datasets[name]) for name in sections_for(options.datasets, 'train')]
    parts = [alignment_dataset(build_table(each.section, each.options, options.manual_seed), each,
                               options.align.texts_per_image, towers.image_encoder.config.preprocessing) for each in sections]
    return bank_of_run(parts, sections, towers.text_encoder, options.text_encoder,
                       _changed(options.bank or BankOptions(), changes), seed)


def _encoder_of(checkpoint: str, metadata: Mapping[str, Any], given: str | None) -> tuple[str, bool]:
    """Return where the text encoder of a checkpoint is, and whether it was trained with sentences by themselves."""
    noted = metadata.get('training')
    training = noted if isinstance(noted, dict) else {}
    path = given or training.get('text_encoder')
    if path in (None, 'open_clip'):
        raise CheckpointError(f'{checkpoint}: does not hold its text encoder, and names '
                              f'{"only the library open_clip" if path else "none"}. Give it with --text-encoder, or the '
                              'option file of the training with -opt.')
    return str(path), bool(training.get('split_sentences'))


def _changed(options: BankOptions, changes: dict[str, Any]) -> BankOptions:
    return checked(replace(options, **changes), 'bank')
