"""Texts written by the processes of a cluster: the file, the seeds and the resumption of one process.

A text depends on the model, the picture and the text's seed alone. So processes can share the images, and the process that was
started adds what they return to the same file.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.ray_cluster import ClusterOptions, connected, dataset_of, own_error, streamed
from pyiqa_rali.core.seeds import derived_seed
from pyiqa_rali.data.image_files import READING, ReadingOptions
from pyiqa_rali.data.reasoning_texts import ReasoningText
from pyiqa_rali.vlm.write_texts import Chunk, WritingOptions, WrittenChunk, picture_for, texts_of_chunk, usable_text

if TYPE_CHECKING:
    from pyiqa_rali.vlm.loading import ReasoningModel
    from pyiqa_rali.vlm.settings import ReasonerSettings

REQUESTS_TOGETHER = 64  # rows of the list of requests
Key = tuple[int, int]  # number of a text, and of the attempt at it


class ClusterWriting:
    """Lets transformers write in the processes of a cluster.

    Args:
        load: makes the model in a process, and what completes in place of transformers, or None.
        model: what the texts say of the model that wrote them.
        options: how texts are written.
        cluster: how the cluster is used.
        reading: how pictures are read.

    Attributes:
        backend: as the record of a file names it.
    """

    backend = 'transformers'

    def __init__(self, load: 'Callable[[], tuple[ReasoningModel, Any]]', model: str, options: WritingOptions,
                 cluster: ClusterOptions, reading: ReadingOptions = READING):
        self.arguments, self.cluster = (load, model, options, reading), cluster

    def __call__(self, chunks: list[Chunk]) -> Iterator[WrittenChunk]:
        """Yield the texts of chunks, in the order in which they are done."""
        with _cluster(self.cluster):
            yield from streamed(functools.partial(iter, chunks), TextWriter, self.arguments, self.cluster)


class TextWriter:
    """Writes the texts of one chunk after the other, in one process of the cluster; see `ClusterWriting`."""

    def __init__(self, load: 'Callable[[], tuple[ReasoningModel, Any]]', model: str, options: WritingOptions,
                 reading: ReadingOptions):
        (self.reasoner, self.completer), self.model = load(), model
        self.options, self.reading = options, reading

    def __call__(self, chunk: Chunk) -> WrittenChunk:
        """Return the texts of some images."""
        given = {} if self.completer is None else {'completer': self.completer}
        return texts_of_chunk(self.reasoner, chunk, self.model, self.options, reading=self.reading, **given)


def load_for_texts(settings: 'ReasonerSettings', with_rating: bool) -> 'tuple[ReasoningModel, None]':
    """Load a model on its device; nothing takes the place of transformers."""
    reasoner = settings.load()
    reasoner.asked.with_rating = with_rating
    return reasoner, None


def load_without_weights_for_texts(settings: 'ReasonerSettings', with_rating: bool) -> 'ReasoningModel':
    """Load processor and card alone."""
    reasoner = settings.load_without_weights()
    reasoner.asked.with_rating = with_rating
    return reasoner


@dataclass
class _Image:
    """An image whose texts are being written.

    Attributes:
        path: its file.
        waiting: completions of this pass that have not come.
        completions: the text of each, None for one that is not usable.
    """

    path: Path
    waiting: int = 0
    completions: dict[Key, str | None] = field(default_factory=dict)


class VllmWriting:
    """Lets vLLM write through Ray Data's processor for it, which keeps the engines of all GPUs busy.

    All texts of all images are asked for in one pass, and those that were not usable, or that an image had already, in the next
    one, with the seeds that a single process would have taken.

    Args:
        reasoner: processor and card, without weights.
        load: makes the same in a process that reads pictures.
        model: what the texts say of the model that wrote them.
        options: how texts are written.
        cluster: how the cluster is used; each actor is an engine on one GPU.
        reading: how pictures are read.

    Attributes:
        backend: as the record of a file names it: that of `VllmCompleter`, whose sampler and seeds these are.

    Raises:
        OptionError: vLLM or Ray's part for it is not installed, the folder holds an adapter, or pixel bounds cannot be kept.
    """

    backend = 'VllmCompleter'

    def __init__(self, reasoner: 'ReasoningModel', load: 'Callable[[], ReasoningModel]', model: str, options: WritingOptions,
                 cluster: ClusterOptions, reading: ReadingOptions = READING):
        from pyiqa_rali.vlm.vllm_backend import pixel_bounds, require_whole_weights
        require_whole_weights(reasoner.folder)
        pixel_bounds(reasoner)
        self._builder = _processor_builder()
        self.reasoner, self.load, self.model = reasoner, load, model
        self.options, self.cluster, self.reading = options, cluster, reading

    def __call__(self, chunks: list[Chunk]) -> Iterator[WrittenChunk]:
        """Yield the texts of images, as they are done."""
        images = {name: _Image(path) for chunk in chunks for name, path in chunk}
        with _cluster(self.cluster):
            process = self._processor()
            while images:  # a pass; it ends, as there are so many attempts at each text and no more
                for image in images.values():
                    image.waiting = len(replayed(image.completions, self.options)[1])
                for row in process(dataset_of(functools.partial(_requests, images, self.options))).iter_rows():
                    image = images[row['name']]
                    image.completions[row['number'], row['attempt']] = self._text(row['generated_tokens'])
                    image.waiting -= 1
                    if not image.waiting:
                        texts, wanted, counts = replayed(image.completions, self.options)
                        if not wanted:
                            del images[row['name']]
                            yield WrittenChunk({row['name']: self._texts(row['name'], texts)}, *counts)

    def _text(self, tokens: Any) -> str | None:
        from pyiqa_rali.vlm.generation import decode
        tokens = [int(token) for token in tokens]
        return usable_text(self.reasoner.asked, decode(self.reasoner, tokens), len(tokens) < self.options.max_new_tokens)

    def _texts(self, name: str, texts: list[tuple[str, Key]]) -> list[ReasoningText]:
        return [ReasoningText(text, derived_seed(self.options.seed, name, *key), self.model) for text, key in texts]

    def _processor(self) -> Any:
        build, config = self._builder
        engine = {'dtype': self.reasoner.loading['dtype'], 'limit_mm_per_prompt': {'image': 1}}
        made = config(model_source=str(self.reasoner.folder), engine_kwargs=engine, concurrency=self.cluster.actors or 1,
                      batch_size=self.options.batch_size, chat_template_stage=False, tokenize_stage=False,
                      detokenize_stage=False)
        return build(made, preprocess=functools.partial(vllm_request, self.load, self.options, self.reading),
                     postprocess=vllm_answer)


def replayed(completions: dict[Key, str | None],
             options: WritingOptions) -> tuple[list[tuple[str, Key]], list[Key], tuple[int, int]]:
    """Return what a single process makes of an image's completions, which it would have asked for one after the other.

    Args:
        completions: of an image so far: usable texts, or None.
        options: how texts are written.

    Returns:
        The texts, each with its number and attempt; the completions that are still wanted; and how many were not usable, and
        how many repeated.
    """
    texts: list[tuple[str, Key]] = []
    wanted, unparsed, repeated = [], 0, 0
    for number in range(options.texts_per_image):
        for attempt in range(options.attempts):
            if (number, attempt) not in completions:
                wanted.append((number, attempt))
                break
            text = completions[number, attempt]
            if text is not None and text not in [known for known, _ in texts]:
                texts.append((text, (number, attempt)))
                break
            unparsed += text is None
            repeated += text is not None
    return texts, wanted, (unparsed, repeated)


def _requests(images: dict[str, _Image], options: WritingOptions) -> Iterator[dict[str, list[Any]]]:
    """Yield the completions that are wanted, some at a time."""
    rows: list[dict[str, Any]] = []
    for name, image in images.items():
        _, wanted, _ = replayed(image.completions, options)
        rows += [{'name': name, 'path': str(image.path), 'number': number, 'attempt': attempt} for number, attempt in wanted]
        if len(rows) >= REQUESTS_TOGETHER:
            yield {key: [row[key] for row in rows] for key in rows[0]}
            rows = []
    if rows:
        yield {key: [row[key] for row in rows] for key in rows[0]}


def vllm_request(load: 'Callable[[], ReasoningModel]', options: WritingOptions, reading: ReadingOptions,
                 row: dict[str, Any]) -> dict[str, Any]:
    """Return a request as Ray Data's processor for vLLM takes it."""
    from pyiqa_rali.vlm.chat import rendered_chat
    from pyiqa_rali.vlm.vllm_backend import pixel_bounds, sampling_values
    reasoner = _loaded(load)
    picture = pixel_bounds(reasoner)(picture_for(reasoner, row['path'], reading))
    seed = derived_seed(options.seed, row['name'], row['number'], row['attempt'])
    sampling = sampling_values(reasoner, options.sampling, options.max_new_tokens)
    return {**row, 'prompt': rendered_chat(reasoner.processor, reasoner.asked.prompt()), 'multimodal_data': {'image': picture},
            'sampling_params': {**sampling, 'seed': seed % 2 ** 32, 'detokenize': False}}


def vllm_answer(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed of a processed request."""
    return {key: row[key] for key in ('name', 'number', 'attempt', 'generated_tokens')}


@functools.lru_cache(maxsize=1)
def _loaded(load: 'Callable[[], ReasoningModel]') -> 'ReasoningModel':
    return load()


def _processor_builder() -> tuple[Any, Any]:
    """Return Ray's function that builds a processor, and the class of its configuration."""
    try:
        import vllm  # noqa: F401
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig
    except ImportError as error:
        raise OptionError(f'--backend: vllm cannot be imported ({error}). pip install "ray[llm]", or take --backend '
                          'transformers.') from error
    return build_processor, vLLMEngineProcessorConfig


@contextlib.contextmanager
def _cluster(options: ClusterOptions) -> Iterator[None]:
    """Connect to a cluster, and let errors of its processes reach the user as those of one process."""
    try:
        with connected(options.address, options.dashboard):
            yield
    except Exception as error:
        if (found := own_error(error)) is error:
            raise
        raise found from None
