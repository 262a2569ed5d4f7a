"""A reasoning model writes several texts about each image: the file that stage 1 reads."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Protocol

from annotated_types import Gt, Le
from PIL import Image

from pyiqa_rali.core.errors import DataError, first_line, some
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.options import Count, Positive, Whole
from pyiqa_rali.core.seeds import derived_seed
from pyiqa_rali.data.image_files import READING, ReadingOptions
from pyiqa_rali.data.reasoning_texts import (
    Distortions,
    ReasoningText,
    save_reasoning_texts,
)
from pyiqa_rali.data.text_files import begin_texts, part_of, refuse_repeated, text_rows, unique_ends
from pyiqa_rali.vlm.answers import lenient_rating, reasoning_text
from pyiqa_rali.vlm.decoding import Sampling
from pyiqa_rali.vlm.generation import complete, decode
from pyiqa_rali.vlm.loading import ReasoningModel, identity
from pyiqa_rali.vlm.prompts import ReasoningCard
from pyiqa_rali.vlm.tables import read_picture

MAY_CHANGE = ('attempts', 'batch_size')  # may differ when a run is resumed, since no text depends on them
OF_NO_TEXT = tuple(f'texts:{key}' for key in MAY_CHANGE)  # the same in an option file


@dataclass
class WritingOptions:
    """How texts are written.

    Attributes:
        texts_per_image: how many different ones.
        seed: of sampling; each text's own seed is derived from it, the image's name and the text's number.
        temperature: of sampling.
        top_k: of sampling; None has no bound.
        top_p: of sampling; None has no bound.
        max_new_tokens: longest completion.
        batch_size: images at once.
        attempts: for each text, when completions have no reasoning, lack a rating that is wanted, or repeat a text.
    """

    texts_per_image: Count = 4
    seed: Whole = 0
    temperature: Positive = 1.0
    max_new_tokens: Count = 512
    batch_size: Count = 8
    attempts: Count = 8
    top_k: Count | None = None
    top_p: Annotated[float, Gt(0), Le(1)] | None = None

    @property
    def sampling(self) -> Sampling:
        """The settings of the sampler."""
        return Sampling(self.temperature, self.top_k, self.top_p)


@dataclass
class WritingReport:
    """What happened.

    Attributes:
        images: with all their texts.
        texts: written.
        unparsed: completions without reasoning, or without a rating that the card requires, which were tried again.
        repeated: texts that an image already had, which were tried again.
        short: images with fewer texts than wanted, after all attempts.
    """

    images: int = 0
    texts: int = 0
    unparsed: int = 0
    repeated: int = 0
    short: list[str] = field(default_factory=list)


Chunk = list[tuple[str, Path]]  # names and files of some images


@dataclass
class WrittenChunk:
    """Texts on some images.

    Attributes:
        texts: of each image, by name.
        unparsed: see `WritingReport`.
        repeated: see `WritingReport`.
    """

    texts: dict[str, list[ReasoningText]]
    unparsed: int
    repeated: int


class SharedWriting(Protocol):
    """Other processes that write texts.

    Attributes:
        backend: as the record of a file names what wrote its texts.
    """

    backend: str

    def __call__(self, chunks: list[Chunk]) -> Iterator[WrittenChunk]:
        """Yield the texts of all images, in any order."""


def write_texts(reasoner: ReasoningModel, images: list[Path], out: Path, options: WritingOptions,
                names: list[str] | None = None, completer: Callable[..., list[list[int]]] | None = None,
                reading: ReadingOptions = READING, distortions: Sequence[Distortions] | None = None,
                shared: SharedWriting | None = None) -> WritingReport:
    """Write texts about all images to a JSON-lines file; an interrupted run continues where it stopped.

    Finished images are in `<out>.part`, one line each; model, prompt and settings are recorded beside it in `<out>.json`; `out`
    itself appears when all images are done.

    Args:
        reasoner: the model, with its card.
        images: files.
        out: the JSON-lines file.
        options: how.
        names: the images' names in the file; None takes the shortest end of each path that no other path has, such as
            `img1.png`, or `gblur/img1.png` beside `noise/img1.png`.
        completer: used in place of `generation.complete`, such as a `VllmCompleter`.
        reading: how pictures are read.
        distortions: the known distortions of each image, which its texts carry along; None where nothing is known.
        shared: lets other processes write, with models of their own; `reasoner` needs no weights then. See `cluster_writing`.

    Raises:
        OptionError: `out` or its part has other settings or other images, or was not written by this function.
        DataError: two images have one name, an image cannot be read or shown to the model, or no text was obtained for some.
    """
    names = names or unique_ends(images)
    refuse_repeated(names)
    prompt = reasoner.asked.prompt()
    settings = {'model': identity(reasoner.folder), **reasoner.loading, 'prompt': prompt.question,
                'system_prompt': prompt.system, 'with_rating': reasoner.asked.with_rating, **vars(options),
                'backend': shared.backend if shared else 'transformers' if completer is None else type(completer).__name__}
    if not reading.upright:  # files that are older than this option do not have it
        settings['upright'] = False
    part, per_image = part_of(out), options.texts_per_image
    # images without a text are tried again, and with more attempts than before also those with fewer than wanted: the result
    # is that of one run with as many attempts
    done = begin_texts(out, settings, names, MAY_CHANGE,
                       lambda before: per_image if options.attempts > before['attempts'] else 1)
    known = dict(zip(names, distortions, strict=True)) if distortions is not None else {}
    report = WritingReport()
    left = [(name, image) for name, image in zip(names, images, strict=True) if name not in done]
    rows = text_rows(part)

    def here(chunks: list[Chunk]) -> Iterator[WrittenChunk]:
        return (texts_of_chunk(reasoner, chunk, settings['model'], options, completer or complete, reading) for chunk in chunks)
    with progress_bar(total=len(images), initial=len(done), desc='write-texts', unit='image') as bar:
        chunks = [left[start:start + options.batch_size] for start in range(0, len(left), options.batch_size)]
        for written in (shared or here)(chunks):
            texts = {name: _knowing(known.get(name), of_image) for name, of_image in written.texts.items()}
            rows.add(texts.items())
            done |= texts
            report.unparsed += written.unparsed
            report.repeated += written.repeated
            bar.update(len(texts))
    return _finish(part, out, {name: _knowing(known.get(name), done[name]) for name in names}, options, report)


def _knowing(distortions: Distortions, texts: list[ReasoningText]) -> list[ReasoningText]:
    """Return the texts of an image with its known distortions; without any, the texts stay as they are."""
    return texts if distortions is None else [replace(text, distortions=distortions) for text in texts]


def texts_of_chunk(reasoner: ReasoningModel, chunk: Chunk, model: str, options: WritingOptions,
                   completer: Callable[..., list[list[int]]] = complete, reading: ReadingOptions = READING) -> WrittenChunk:
    """Return the texts of some images: each text is tried until it is a new one, or its attempts are used up.

    Args:
        reasoner: the model, with its card.
        chunk: the images.
        model: what the texts say of the model that wrote them.
        options: how.
        completer: see `write_texts`.
        reading: how pictures are read.

    Raises:
        DataError: an image cannot be read or shown to the model.
    """
    report = WritingReport()
    pictures = [picture_for(reasoner, image, reading) for _, image in chunk]
    sampling = options.sampling
    found: list[list[ReasoningText]] = [[] for _ in chunk]
    for number in range(options.texts_per_image):
        missing = list(range(len(chunk)))
        for attempt in range(options.attempts):
            seeds = [derived_seed(options.seed, chunk[each][0], number, attempt) for each in missing]
            completions = completer(reasoner, [pictures[each] for each in missing], reasoner.asked.prompt(),
                                    options.max_new_tokens, seeds, sampling)
            failed = []
            for each, seed, completion in zip(missing, seeds, completions, strict=True):
                text = usable_text(reasoner.asked, decode(reasoner, completion), len(completion) < options.max_new_tokens)
                known = {item.text for item in found[each]}
                if text is not None and text not in known:
                    found[each].append(ReasoningText(text, seed, model))
                    continue
                failed.append(each)
                report.unparsed += text is None
                report.repeated += text is not None
            missing = failed
            if not missing:
                break
    return WrittenChunk({name: texts for (name, _), texts in zip(chunk, found, strict=True)}, report.unparsed, report.repeated)


def picture_for(reasoner: ReasoningModel, path: str | Path, reading: ReadingOptions = READING) -> Image.Image:
    """Return the picture of a file that the model can be shown.

    Raises:
        DataError: it cannot be read, or the model's processor takes none of its shape; the message names the file.
    """
    return shown_picture(reasoner, read_picture(str(path), reading), str(path))


def shown_picture(reasoner: ReasoningModel, picture: Image.Image, name: str) -> Image.Image:
    """Return a picture that the model can be shown.

    Raises:
        DataError: the model's processor takes none of its shape; the message names it.
    """
    try:
        reasoner.processor.image_processor([picture])
    except ValueError as error:
        raise DataError(f'{name}: the model cannot be shown a picture of {picture.width}x{picture.height} pixels '
                        f'({first_line(error)}). Crop it or leave it out.') from error
    return picture


def usable_text(card: ReasoningCard, completion: str, ended: bool) -> str | None:
    """Return the reasoning of a completion that has both a reasoning and a rating.

    Where the card requires no rating, a reasoning that was not cut off is enough: one that `ended` by itself, or was closed.
    """
    text = reasoning_text(completion)
    if card.with_rating:
        whole = lenient_rating(completion, card.bounds, card.rating_key) is not None
    else:
        whole = ended or '</think>' in completion
    return text if text and whole else None


def _finish(part: Path, out: Path, done: dict[str, list[ReasoningText]], options: WritingOptions,
            report: WritingReport) -> WritingReport:
    report.images, report.texts = len(done), sum(map(len, done.values()))
    report.short = [name for name, texts in done.items() if len(texts) < options.texts_per_image]
    empty = [name for name, texts in done.items() if not texts]
    if empty:
        raise DataError(f'{len(empty)} images have no text after {options.attempts} attempts: {some(empty)}. Those of the '
                        f'others are in {part}. Raise --attempts (texts: attempts in an option file), or look at the '
                        'model with: python -m pyiqa_rali describe.')
    save_reasoning_texts(out, done)
    part.unlink(missing_ok=True)
    return report
