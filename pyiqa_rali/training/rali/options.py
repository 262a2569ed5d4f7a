"""Options of a RALI training run: one dataclass a section of the option file, and what may stand in them."""

from dataclasses import dataclass, field
from typing import Any

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import check_choice, from_known_keys

STAGES = ('align', 'compress', 'score')


@dataclass
class TextEncoderOptions:
    """Which text encoder the images are aligned with.

    Attributes:
        library: 'open_clip' (the image encoder's own text tower) or 'transformers' (a sentence encoder).
        path: for transformers, a folder or hub repository; 'installed:PACKAGE' takes the model that a Python package
            ships in its `model` folder.
        train: whether its weights are trained too.
        split_sentences: encode each sentence by itself and average; for texts longer than the context.
    """

    library: str = 'open_clip'
    path: str | None = None
    train: bool = False
    split_sentences: bool = False


@dataclass
class AlignOptions:
    """Stage 1, contrastive alignment (arXiv 2510.11369, section 2).

    Attributes:
        total_iter: number of steps; 0 leaves the encoder as it is (the paper's ablation).
        warmup_iter: steps over which the learning rate rises linearly; it then falls with a cosine to 0.
        lr: learning rate of the backbone (its last layer, with `layer_decay`).
        lr_projection: learning rate of the projection; None means `lr`.
        lr_text: learning rate of a trained text encoder; None means `lr`.
        weight_decay: AdamW's, on matrices only.
        betas: AdamW's.
        grad_clip: largest gradient norm; None switches clipping off.
        layer_decay: factor on the learning rate from each layer to the one before it.
        freeze_layers: how many of the first layers stay as they are; -1 freezes the whole backbone.
        loss: 'softmax' (CLIP) or 'sigmoid' (SigLIP).
        init_logit_scale: the loss's scale at the start (1 / temperature); None takes the model's own, or 1 / 0.07.
        max_logit_scale: the loss's scale never grows above it.
        amp: None, 'bfloat16' or 'float16' mixed precision.
        chunk_size: pictures that pass the encoder at once; None means the whole batch. Smaller chunks save memory and give
            the same gradient.
        texts_per_image: at most so many of an image's texts are used; None means all (1 switches seed augmentation off).
        standardise_samples: pictures from which a projection's input standardisation is taken before the first step.
        prompts: sentences for high and low quality, to follow the alignment by zero-shot correlation.
    """

    total_iter: int
    lr: float
    warmup_iter: int = 0
    lr_projection: float | None = None
    lr_text: float | None = None
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    grad_clip: float | None = 1.0
    layer_decay: float = 1.0
    freeze_layers: int = 0
    loss: str = 'softmax'
    init_logit_scale: float | None = None
    max_logit_scale: float = 100.0
    amp: str | None = None
    chunk_size: int | None = None
    texts_per_image: int | None = None
    standardise_samples: int = 256
    prompts: dict[str, list[str]] | None = None


@dataclass
class CompressOptions:
    """Stage 2, feature compression.

    Attributes:
        pca_dim: width D after PCA; None keeps the standardised features (the paper's ablation).
        num_buckets: number N of equal-width MOS buckets; 1 is plain k-means (the paper's ablation).
        bucket_range: what the buckets cover: 'labels', from the lowest to the highest label that occurs, or 'mos_range', the
            declared range, parts of which may hold no images (version 0.1).
        num_basis: number K of basis vectors over all buckets.
        standardise: divide by each feature's standard deviation before PCA.
        backend: 'scipy' or 'torch' (k-means on the training device).
        kmeans_iter: k-means iterations.
    """

    num_basis: int
    pca_dim: int | None = None
    num_buckets: int = 1
    bucket_range: str = 'labels'
    standardise: bool = True
    backend: str = 'scipy'
    kmeans_iter: int = 20


@dataclass
class ScoreOptions:
    """Stage 3, the scoring definition.

    Attributes:
        fine_tune: train basis vectors and scores; False keeps stage 2's (the paper's ablation).
        temperature: tau of the softmax over the basis, at the start.
        train_temperature: whether tau is trained too.
        total_epochs: passes over the training features.
        batch_size: features a step.
        lr: learning rate of the basis vectors.
        lr_scores: learning rate of the basis scores, on MOS scaled to [0, 1]; None means `lr`.
        mse_weight: weight of the mean squared error, on MOS scaled to [0, 1].
        plcc_weight: weight of pyiqa's PLCC loss.
    """

    temperature: float = 0.07
    fine_tune: bool = True
    train_temperature: bool = False
    total_epochs: int = 30
    batch_size: int = 256
    lr: float = 1e-3
    lr_scores: float | None = None
    mse_weight: float = 1.0
    plcc_weight: float = 0.0


@dataclass
class ValOptions:
    """Validation, with pyiqa's keys.

    Attributes:
        key_metric: the metric by which the best epoch of stage 3 is chosen.
        key_dataset: the validation set that it is taken from; None averages over all of them.
        metrics: pyiqa's metric sections, by name.
        val_freq: steps between validations of stage 1; None validates at the end only.
    """

    key_metric: str = 'srcc'
    key_dataset: str | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=lambda: {
        name: {'type': f'calculate_{name}'} for name in ('srcc', 'plcc', 'krcc')})
    val_freq: int | None = None


@dataclass
class LoggerOptions:
    """Logging and saving, with pyiqa's keys.

    Attributes:
        print_freq: steps between lines of the CSV and points of TensorBoard.
        save_checkpoint_freq: steps between resumable states of stage 1.
        use_tb_logger: write TensorBoard files.
        figures: draw curves, scatter plots and image sheets.
    """

    print_freq: int = 10
    save_checkpoint_freq: int = 100
    use_tb_logger: bool = True
    figures: bool = True


@dataclass
class ExportOptions:
    """What the trained model says about itself.

    Attributes:
        dtype: 'float32' or 'float16' storage of the image encoder; the scorer is always float32.
        licence: licence of the weights.
        training_data: a sentence on the data.
    """

    dtype: str = 'float32'
    licence: str = 'unspecified'
    training_data: str | None = None


@dataclass
class BankOptions:
    """The text bank of the export, which explanations are made of; without the section there is none.

    Attributes:
        num_texts: number B of texts, chosen from the run's reasoning texts.
        num_candidates: the choice is made among so many of the texts, drawn at random; a data set that draws its pictures
            anew is asked for so many pictures.
        selection: 'kmeans' (the text nearest to each of B centroids of all texts) or 'farthest' (farthest points).
        temperature: of the softmax over the cosines of image and texts, in the votes on distortions.
    """

    num_texts: int = 400
    num_candidates: int = 1600
    selection: str = 'kmeans'
    temperature: float = 0.02


@dataclass
class PathOptions:
    """Folders and weights, with pyiqa's keys.

    Attributes:
        experiments_root: the run's folder is made in it.
        pretrain_network: an export of ours whose image encoder is the start; None starts from `network`.
        strict_load: whether its tensors must match exactly.
    """

    experiments_root: str = './experiments'
    pretrain_network: str | None = None
    strict_load: bool = True


@dataclass
class TrainOptions:
    """One training run of RALI, checked."""

    name: str
    manual_seed: int
    stages: list[str]
    num_gpu: int | str
    datasets: dict[str, dict[str, Any]]
    network: dict[str, Any]
    text_encoder: TextEncoderOptions
    path: PathOptions
    align: AlignOptions
    compress: CompressOptions
    score: ScoreOptions
    val: ValOptions
    logger: LoggerOptions
    export: ExportOptions
    bank: BankOptions | None = None
    model_type: str = 'RALI'


def train_options(values: dict[str, Any]) -> TrainOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    values = {'stages': list(STAGES), 'num_gpu': 'auto', 'text_encoder': {}, 'path': {}, 'val': {}, 'logger': {},
              'export': {}, **values}
    sections = {'text_encoder': TextEncoderOptions, 'path': PathOptions, 'align': AlignOptions,
                'compress': CompressOptions, 'score': ScoreOptions, 'val': ValOptions, 'logger': LoggerOptions,
                'export': ExportOptions}
    if values.get('bank') is not None:
        sections['bank'] = BankOptions
    for name, cls in sections.items():
        if name in values:
            values[name] = from_known_keys(cls, values[name] or {}, name)
    options = from_known_keys(TrainOptions, values, 'options')
    _check_values(options)
    return options


def _check_values(options: TrainOptions) -> None:
    for stage in options.stages:
        check_choice('stages', stage, STAGES)
    if options.stages != [stage for stage in STAGES if stage in options.stages] or not options.stages:
        raise OptionError(f'stages: {options.stages} must be some of {list(STAGES)}, in this order.')
    check_choice('text_encoder: library', options.text_encoder.library, ('open_clip', 'transformers'))
    check_choice('align: loss', options.align.loss, ('softmax', 'sigmoid'))
    check_choice('align: amp', options.align.amp, (None, 'bfloat16', 'float16'))
    check_choice('compress: bucket_range', options.compress.bucket_range, ('labels', 'mos_range'))
    check_choice('compress: backend', options.compress.backend, ('scipy', 'torch'))
    check_choice('export: dtype', options.export.dtype, ('float32', 'float16'))
    check_choice('val: key_metric', options.val.key_metric, tuple(options.val.metrics))
    for section, name, least in (('align', 'total_iter', 0), ('align', 'chunk_size', 1), ('compress', 'num_basis', 1),
                                 ('compress', 'num_buckets', 1), ('compress', 'pca_dim', 1), ('score', 'total_epochs', 1),
                                 ('score', 'batch_size', 1), ('logger', 'print_freq', 1),
                                 ('logger', 'save_checkpoint_freq', 1)):
        value = getattr(getattr(options, section), name)
        if value is not None and value < least:
            raise OptionError(f'{section}: {name}: {value} must be at least {least}.')
    if not options.score.temperature > 0:
        raise OptionError(f'score: temperature: {options.score.temperature} must be above 0.')
    if options.bank is not None:
        check_bank_options(options.bank)


def check_bank_options(bank: BankOptions) -> None:
    """Raise OptionError when a value of a bank's options cannot be used."""
    check_choice('bank: selection', bank.selection, ('kmeans', 'farthest'))
    for name in ('num_texts', 'num_candidates'):
        if getattr(bank, name) < 1:
            raise OptionError(f'bank: {name}: {getattr(bank, name)} must be at least 1.')
    if not bank.temperature > 0:
        raise OptionError(f'bank: temperature: {bank.temperature} must be above 0.')
