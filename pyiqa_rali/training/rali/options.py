"""Options of a RALI training run: one dataclass for each section of the option file, and what they may contain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from pyiqa_rali.core.errors import OptionError
from pyiqa_rali.core.options import Count, NotNegative, Positive, Seed, Share, Whole, check_choice, from_known_keys
from pyiqa_rali.core.runs import EARLIER
from pyiqa_rali.data.sections import DatasetOptions

Stage = Literal['align', 'compress', 'score']
STAGES: tuple[Stage, ...] = ('align', 'compress', 'score')
Heads = Literal['none', 'affine', 'power']
Signal = Literal['kernel', 'scatter', 'errors', 'distance', 'spread']
Beta = Annotated[float, Ge(0), Lt(1)]


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

    library: Literal['open_clip', 'transformers'] = 'open_clip'
    path: str | None = None
    train: bool = False
    split_sentences: bool = False


@dataclass
class ZeroShotPrompts:
    """Sentences that stage 1 is followed with, by zero-shot correlation.

    Attributes:
        high: of high quality.
        low: of low quality.
    """

    high: Annotated[list[str], MinLen(1)]
    low: Annotated[list[str], MinLen(1)]


@dataclass
class QualityOptions:
    """A quality that stage 1 learns from MOS beside the texts: a linear head on the image features, which no export has.

    Attributes:
        weight: of the whole beside the contrastive loss.
        heads: how the MOS of each training set follow from the common quality: 'none' (they are the same), 'affine', or
            'power', each rising. The quality is on the scale of the first training set.
        mse_weight: weight of the mean squared error, on MOS scaled to [0, 1].
        plcc_weight: weight of pyiqa's PLCC loss, within each set.
        rank_weight: weight of the rank loss, within each set: 1 minus the fidelity of arXiv 2505.14460.
        lr: learning rate of head and maps.
    """

    weight: Positive = 1.0
    heads: Heads = 'affine'
    mse_weight: NotNegative = 1.0
    plcc_weight: NotNegative = 0.0
    rank_weight: NotNegative = 0.0
    lr: NotNegative = 1e-3


@dataclass
class AlignOptions:
    """Stage 1, contrastive alignment (arXiv 2510.11369, section 2).

    Attributes:
        total_iter: number of steps; 0 leaves the encoder as it is (the paper's ablation).
        stop_iter: end stage 1 after so many of these steps, without changing their learning rates; None takes all.
        warmup_iter: steps over which the learning rate rises linearly; it then falls with a cosine to 0.
        lr: learning rate of the backbone (its last layer, with `layer_decay`).
        lr_projection: learning rate of the projection; None means `lr`.
        lr_text: learning rate of a trained text encoder; None means `lr`.
        weight_decay: AdamW's, on matrices only.
        betas: AdamW's.
        grad_clip: largest gradient norm; None, like 0, switches clipping off.
        layer_decay: factor on the learning rate from each layer to the one before it.
        freeze_layers: how many of the first layers stay as they are; -1 freezes the whole backbone.
        cache_backbone: compute what a backbone that stays as it is makes of each picture once, and keep it in
            `path: feature_cache`: steps then train the projection alone, on kept rows of whole pictures, in a fraction of the
            time. A set that draws its pictures anew takes its first `samples_per_epoch` draws.
        loss: 'softmax' (CLIP) or 'sigmoid' (SigLIP).
        contrastive_weight: weight of that loss; 0 leaves the texts out, for comparison.
        quality: what the MOS teach beside the texts; None, as in the paper, teaches nothing.
        init_logit_scale: the loss's scale at the start (1 / temperature); None takes the model's own, or 1 / 0.07.
        max_logit_scale: the loss's scale never grows above it, nor falls below 1.
        amp: None, 'bfloat16' or 'float16' mixed precision.
        chunk_size: pictures that pass the encoder at once; None means the whole batch. Smaller chunks save memory and give
            the same gradient.
        texts_per_image: at most so many of an image's texts are used; None means all (1 switches seed augmentation off).
        standardise_samples: pictures from which a projection's input standardisation is taken before the first step.
        prompts: sentences for high and low quality, to follow the alignment by zero-shot correlation.
    """

    total_iter: Whole
    lr: NotNegative
    stop_iter: Count | None = None
    warmup_iter: Whole = 0
    lr_projection: NotNegative | None = None
    lr_text: NotNegative | None = None
    weight_decay: NotNegative = 0.0
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    grad_clip: NotNegative | None = 1.0
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    freeze_layers: Annotated[int, Ge(-1)] = 0
    cache_backbone: bool = False
    loss: Literal['softmax', 'sigmoid'] = 'softmax'
    contrastive_weight: NotNegative = 1.0
    quality: QualityOptions | None = None
    init_logit_scale: Positive | None = None
    max_logit_scale: Positive = 100.0
    amp: Literal[None, 'bfloat16', 'float16'] = None
    chunk_size: Count | None = None
    texts_per_image: Count | None = None
    standardise_samples: Count = 256
    prompts: ZeroShotPrompts | None = None


@dataclass
class CompressOptions:
    """Stage 2, feature compression.

    Attributes:
        pca_dim: width D after PCA; None keeps the standardised features (the paper's ablation).
        num_buckets: number N of equal-width MOS buckets; 1 is plain k-means (the paper's ablation).
        bucket_by: what images are put into buckets by: 'label', their MOS scaled to [0, 1], or 'rank', their rank among the
            images of their own data set, for sets whose scales differ.
        bucket_range: what the buckets cover: 'labels', from the lowest to the highest label that occurs, or 'mos_range', the
            declared range, parts of which may hold no images (version 0.1).
        num_basis: number K of basis vectors over all buckets.
        standardise: divide by each feature's standard deviation before PCA, as the released checkpoint's `pca_scale` can; the
            paper's formula does not.
        backend: who computes PCA and k-means: 'sklearn', or 'torch' (on a GPU if there is one). 'scipy', of version 0.1, means
            'sklearn'.
        kmeans_iter: k-means iterations.
    """

    num_basis: Count
    pca_dim: Count | None = None
    num_buckets: Count = 1
    bucket_by: Literal['label', 'rank'] = 'label'
    bucket_range: Literal['labels', 'mos_range'] = field(default='labels', metadata={EARLIER: 'mos_range'})
    standardise: bool = True
    backend: Literal['sklearn', 'torch', 'scipy'] = 'sklearn'
    kmeans_iter: Whole = 20


@dataclass
class ScoreOptions:
    """Stage 3, the scoring definition.

    Attributes:
        fine_tune: train basis vectors and scores; False keeps stage 2's (the paper's ablation).
        temperature: tau of the softmax over the basis, at the start.
        train_temperature: whether tau is trained too.
        within_range: keep the basis scores within the range of the MOS while they are trained, and with them every score, which
            is a mean of them.
        own_temperature: give each image a temperature of its own, tau exp(u z), and train the direction u, 0 at first.
        total_epochs: passes over the training features.
        batch_size: features a step.
        lr: learning rate of the basis vectors.
        lr_scores: learning rate of the basis scores, on MOS scaled to [0, 1]; None means `lr`.
        mse_weight: weight of the mean squared error, on MOS scaled to [0, 1].
        plcc_weight: weight of pyiqa's PLCC loss, within each data set.
        rank_weight: weight of the rank loss, within each data set: 1 minus the fidelity of arXiv 2505.14460.
        heads: how the MOS of each training set follow from the score: 'none' (they are the same), 'affine', or 'power', each
            rising. The score is on the scale of the first set, whose own map is the identity; exports need none of the others.
    """

    temperature: Positive = 0.07
    fine_tune: bool = True
    train_temperature: bool = False
    own_temperature: bool = False
    within_range: bool = False
    total_epochs: Count = 30
    batch_size: Count = 256
    lr: NotNegative = 1e-3
    lr_scores: NotNegative | None = None
    mse_weight: NotNegative = 1.0
    plcc_weight: NotNegative = 0.0
    rank_weight: NotNegative = 0.0
    heads: Heads = 'none'


@dataclass
class ValOptions:
    """Validation, with pyiqa's keys.

    Attributes:
        key_metric: the metric by which the best epoch of stage 3 is chosen.
        key_dataset: the validation set that it is taken from, or several, which it is averaged over; None means all for `val`,
            and those for `test` only where there are no others.
        metrics: pyiqa's metric sections, by name.
        val_freq: steps between validations of stage 1; None validates at the end only.
        overlap: what validation images that are trained on do: 'fail' ends the run before its first step, 'count' continues and
            writes their number to the results.
    """

    key_metric: str = 'srcc'
    key_dataset: str | list[str] | None = None
    metrics: dict[str, dict[str, Any]] = field(default_factory=lambda: {
        name: {'type': f'calculate_{name}'} for name in ('srcc', 'plcc', 'krcc')})
    val_freq: Count | None = None
    overlap: Literal['fail', 'count'] = 'fail'


@dataclass
class LoggerOptions:
    """Logging and saving, with pyiqa's keys.

    Attributes:
        print_freq: steps between lines of the CSV and points of TensorBoard.
        save_checkpoint_freq: steps between resumable states of stage 1.
        use_tb_logger: write TensorBoard files.
        figures: draw curves, scatter plots and image sheets.
    """

    print_freq: Count = 10
    save_checkpoint_freq: Count = 100
    use_tb_logger: bool = True
    figures: bool = True


@dataclass
class ExportOptions:
    """What the trained model says about itself.

    Attributes:
        dtype: 'float32' or 'float16' storage of the image encoder; the scorer is always float32.
        licence: licence of the weights.
        training_data: a sentence on the data.
        mos_range: lowest and highest score: the first training set's range is stretched to it. None keeps that set's own.
    """

    dtype: Literal['float32', 'float16'] = 'float32'
    licence: str = 'unspecified'
    training_data: str | None = None
    mos_range: tuple[float, float] | None = None


@dataclass
class BankOptions:
    """The text bank of the export, which explanations are made of; without the section there is none.

    Attributes:
        num_texts: number B of texts, chosen from the run's reasoning texts.
        num_candidates: the choice is made among so many of the texts, drawn at random; a data set that draws its pictures
            anew is asked for so many pictures. Several training sets offer as many texts each.
        selection: 'kmeans' (the text nearest to each of B centroids of all texts) or 'farthest' (farthest points).
        temperature: of the softmax over the cosines of image and texts, in the votes on distortions.
    """

    num_texts: Count = 400
    num_candidates: Count = 1600
    selection: Literal['kmeans', 'farthest'] = 'kmeans'
    temperature: Positive = 0.02


@dataclass
class IntervalOptions:
    """Intervals around the scores of the export, by split conformal prediction; without the section there are none.

    Attributes:
        datasets: validation sets that they are calibrated on; None takes the first one. Intervals hold the promised share of
            MOS for pictures like those.
        signals: what tells how far off a score is (see `IntervalHead.signals`), combined by regression.
        references: at most so many of the calibration images are kept in the export.
        neighbours: number of the nearest references that are asked.
        ridge: of the kernel regression.
        offset: added to an error, as a share of the MOS range, before its logarithm is taken.
        folds: no image is judged by a signal that was learned from its own fold.
        false_alarms: share of images like those of the calibration that are called unlike them.
    """

    datasets: list[str] | None = None
    signals: Annotated[list[Signal], MinLen(1)] = field(default_factory=lambda: ['kernel'])
    references: Count = 2000
    neighbours: Count = 20
    ridge: Positive = 3.0
    offset: Positive = 0.025
    folds: Annotated[int, Ge(2)] = 10
    false_alarms: Annotated[float, Gt(0), Lt(1)] = 0.05


@dataclass
class DiagnosisOptions:
    """The diagnosis of the export: votes, levels and aspects, read from the features; without the section there is none.

    Attributes:
        strengths: of the tie of votes and faults to the texts. Votes take the strongest that is within one standard error of
            the best on validation pictures, faults the best.
        level_strengths: of the penalty on the levels' readings; the one with the least error is taken.
        photographs_weight: how much photographs count in the faults, of 1; the rest is for pictures that were distorted on
            purpose. Their faults are as people's photographs have them, but only guessed from measures.
        num_pictures: at most so many training pictures of each set, spread evenly; None takes all.
    """

    strengths: Annotated[list[Positive], MinLen(1)] = field(default_factory=lambda: [1e-2, 3e-2, 1e-1, 3e-1, 1.0])
    level_strengths: Annotated[list[Positive], MinLen(1)] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3])
    photographs_weight: Share = 0.8
    num_pictures: Count | None = None


@dataclass
class PathOptions:
    """Folders and weights, with pyiqa's keys.

    Attributes:
        experiments_root: the run's folder is made in it.
        pretrain_network: an export of ours whose image encoder is the start, or the image encoder that stage 1 of a run left in
            its `align` folder, or rali-lite or rali-lite-v1 for the embedded weights; of a list of them the mean, for runs that
            began alike; None starts from `network`.
        strict_load: whether its tensors must match exactly.
        feature_cache: folder where features are kept, addressed by weights and pictures, for this run and others; None keeps
            none, and with `align: cache_backbone: true` means feature_cache below `experiments_root`.
    """

    experiments_root: str = './experiments'
    pretrain_network: str | Annotated[list[str], MinLen(1)] | None = None
    strict_load: bool = True
    feature_cache: str | None = None


@dataclass(kw_only=True)
class TrainOptions:
    """One training run of RALI.

    Attributes:
        name: of the run's folder.
        model_type: RALI.
        num_gpu: 'auto', or how many; 0 is the CPU.
        manual_seed: of everything that is drawn.
        stages: those to run, in order.
        datasets: by name: train, basis, val or test, val_1, val_2 and so on for several.
        network: `type: RALI` and `image_encoder`.
        text_encoder: which text encoder.
        path: folders and weights.
        align: stage 1.
        compress: stage 2.
        score: stage 3.
        val: validation.
        logger: logging and saving.
        bank: the text bank; None makes none.
        interval: intervals around scores; None makes none.
        diagnosis: votes, levels and aspects, fitted on the training pictures; None makes none. It needs a bank.
        export: what the model says about itself.
    """

    name: str
    model_type: Literal['RALI'] = 'RALI'
    num_gpu: Literal['auto'] | Whole = 'auto'
    manual_seed: Seed
    stages: Annotated[list[Stage], MinLen(1)] = field(default_factory=lambda: list(STAGES))
    datasets: dict[str, DatasetOptions]
    network: dict[str, Any]
    text_encoder: TextEncoderOptions = field(default_factory=TextEncoderOptions)
    path: PathOptions = field(default_factory=PathOptions)
    align: AlignOptions
    compress: CompressOptions
    score: ScoreOptions
    val: ValOptions = field(default_factory=ValOptions)
    logger: LoggerOptions = field(default_factory=LoggerOptions)
    bank: BankOptions | None = None
    interval: IntervalOptions | None = None
    diagnosis: DiagnosisOptions | None = None
    export: ExportOptions = field(default_factory=ExportOptions)


def train_options(values: Mapping[str, Any]) -> TrainOptions:
    """Turn plain values into checked options.

    Raises:
        OptionError: a key is unknown, missing, or has a value that cannot be used.
    """
    options = from_known_keys(TrainOptions, values)
    if options.stages != [stage for stage in STAGES if stage in options.stages]:
        raise OptionError(f'stages: {options.stages} must be some of {list(STAGES)}, in this order.')
    check_choice('val: key_metric', options.val.key_metric, tuple(options.val.metrics))
    if options.diagnosis is not None and options.bank is None:
        raise OptionError('diagnosis: starts at the texts of a bank. Give a section "bank:" too, or leave it out.')
    return options
