"""Stage 1: align the image encoder with the reasoning texts (arXiv 2510.11369, contrastive alignment)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pyiqa_rali.core import processes
from pyiqa_rali.core.errors import DataError
from pyiqa_rali.core.files import atomic_path
from pyiqa_rali.core.messages import progress_bar
from pyiqa_rali.core.records import RunRecord
from pyiqa_rali.data.sections import DatasetSection
from pyiqa_rali.model.image_encoder import ImageEncoder, Standardise
from pyiqa_rali.training.rali.batches import AlignmentDataset, JoinedAlignment, make_sampler, shares_of, training_loader
from pyiqa_rali.training.rali.losses import ContrastiveLoss, contrastive_backward
from pyiqa_rali.training.rali.options import AlignOptions, LoggerOptions
from pyiqa_rali.training.rali.parameter_groups import trainable_groups
from pyiqa_rali.training.rali.quality import Labels, QualityHead, padded, quality_loss
from pyiqa_rali.training.rali.towers import Towers

STATE_FILE = 'state.pt'


@dataclass
class Alignment:
    """Everything that stage 1 changes step by step."""

    towers: Towers
    loss: ContrastiveLoss
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler | None
    quality: QualityHead | None = None
    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs to continue exactly."""
        return {'step': self.step, 'image_encoder': self.towers.image_encoder.state_dict(),
                'text_encoder': self.towers.text_encoder.state_dict() if self.towers.text_encoder.train_weights else None,
                'quality': self.quality.state_dict() if self.quality else None,
                'loss': self.loss.state_dict(), 'optimizer': self.optimizer.state_dict(),
                'scheduler': self.scheduler.state_dict(), 'scaler': self.scaler.state_dict() if self.scaler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.step = state['step']
        self.towers.image_encoder.load_state_dict(state['image_encoder'])
        if state['text_encoder'] is not None:
            self.towers.text_encoder.load_state_dict(state['text_encoder'])
        if self.quality:
            self.quality.load_state_dict(state['quality'])
        self.loss.load_state_dict(state['loss'])
        self.loss.clamp_scale()  # earlier versions let the parameter go beyond its limit
        self.optimizer.load_state_dict(state['optimizer'])
        self.scheduler.load_state_dict(state['scheduler'])
        if self.scaler:
            self.scaler.load_state_dict(state['scaler'])


def make_alignment(towers: Towers, options: AlignOptions, device: torch.device, sets: int = 1) -> Alignment:
    """Put towers, losses, optimiser and schedule together, for so many training sets."""
    loss = ContrastiveLoss(options.loss, options.init_logit_scale or towers.logit_scale or 1 / 0.07,
                           -10.0 if towers.logit_bias is None else towers.logit_bias, options.max_logit_scale)
    for module in (towers.image_encoder, towers.text_encoder, loss):
        module.to(device).eval()
    groups, quality = trainable_groups(towers, loss, options), None
    if options.quality:
        quality = QualityHead(towers.image_encoder.config.embed_dim, sets, options.quality.heads).to(device)
        groups.append({'params': list(quality.parameters()), 'lr': options.quality.lr, 'weight_decay': 0.0})
    optimizer = torch.optim.AdamW(groups, betas=(options.betas[0], options.betas[1]))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, options.warmup_iter, options.total_iter))
    scaler = torch.amp.GradScaler(device.type) if options.amp == 'float16' else None
    return Alignment(towers, loss, optimizer, scheduler, scaler, quality)


def learning_rate_factor(step: int, warmup_iter: int, total_iter: int) -> float:
    """Return the factor on the learning rate: linear warm-up, then a cosine to 0.

    Example:
        >>> [round(learning_rate_factor(step, 2, 4), 2) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup_iter:
        return (step + 1) / warmup_iter
    progress = (step - warmup_iter) / max(1, total_iter - warmup_iter)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def align(towers: Towers, dataset: AlignmentDataset | JoinedAlignment, sections: Sequence[DatasetSection],
          options: AlignOptions, logger: LoggerOptions, folder: Path, seed: int, device: torch.device, resume: bool,
          tb_folder: Path | None = None, validate=None) -> None:
    """Train the image encoder for `options.total_iter` steps; on return `towers` holds the aligned weights.

    Args:
        towers: both encoders.
        dataset: images with texts.
        sections: of the training sets, in the order of the data set's parts; the first has batch size and workers.
        options: stage 1's options.
        logger: how often to write.
        folder: holds the resumable state and `log.csv`.
        seed: the run's seed.
        device: where to train.
        resume: take up `folder`'s state when there is one.
        tb_folder: TensorBoard's folder.
        validate: called now and then with the quality head and whether it is the last time; its values go into the record.
    """
    alignment = make_alignment(towers, options, device, len(sections))
    state_file = folder / STATE_FILE
    if resume and state_file.exists():
        alignment.load_state_dict(torch.load(state_file, map_location=device, weights_only=True))
    elif options.total_iter:
        _standardise_projection(towers, dataset, options, device)
    total = min(options.total_iter, options.stop_iter or options.total_iter)
    if alignment.step >= total:
        return
    columns = ['loss', *(['quality_loss'] if alignment.quality else []), 'logit_scale', 'lr',
               *(validate.columns if validate else [])]
    record = RunRecord(folder / 'log.csv', columns, alignment.step, tb_folder) if processes.is_main() else None
    loader = _loader(dataset, sections, seed, alignment.step, total)
    ordered = [number for number, section in enumerate(sections) if section.options.supervision == 'order']
    _run_steps(alignment, loader, total, options, ordered, logger, record, state_file, device, validate)
    if record:
        record.close()


def _loader(dataset: AlignmentDataset | JoinedAlignment, sections: Sequence[DatasetSection], seed: int, start: int,
            total: int) -> DataLoader:
    first = sections[0]
    if first.options.batch_size_per_gpu is None:
        raise DataError(f'datasets: {first.section}: batch_size_per_gpu: must be given.')
    shares = shares_of(sections, dataset.parts if isinstance(dataset, JoinedAlignment) else [dataset])
    return training_loader(dataset, first, make_sampler(dataset, shares, first.options.batch_size_per_gpu, seed, start, total))


def _run_steps(alignment: Alignment, loader: DataLoader, total: int, options: AlignOptions, ordered: Sequence[int],
               logger: LoggerOptions, record: RunRecord | None, state_file: Path, device: torch.device, validate) -> None:
    progress = progress_bar(loader, total=total, initial=alignment.step, desc='stage 1: align', unit='step',
                            disable=not processes.is_main())
    for batch in progress:
        rate = float(alignment.scheduler.get_last_lr()[0])
        losses = train_step(alignment, batch, options, device, ordered)
        scale = alignment.loss.logit_scale.exp().item()
        progress.set_postfix(**{name: f'{value:.4f}' for name, value in losses.items()}, scale=f'{scale:.1f}')
        done, last = alignment.step, alignment.step == total
        values = validate(alignment.quality, last) if validate and validate.due(done, last) else {}
        if record and (values or last or done % logger.print_freq == 0):
            record.add(done - 1, {**losses, 'logit_scale': scale, 'lr': rate, **values})
        if processes.is_main() and (last or done % logger.save_checkpoint_freq == 0):
            with atomic_path(state_file) as temporary:
                torch.save(alignment.state_dict(), temporary)


def train_step(alignment: Alignment, batch: dict[str, Any], options: AlignOptions, device: torch.device,
               ordered: Sequence[int] = ()) -> dict[str, float]:
    """Take one optimiser step and return the losses of the batch over all ranks: 'loss', the whole, and 'quality_loss'.

    Args:
        alignment: what is trained.
        batch: see `collate`.
        options: stage 1's options.
        device: where to train.
        ordered: training sets of which the order alone teaches the quality.

    Raises:
        DataError: the loss is not a number.
    """
    towers = alignment.towers
    dtype = {None: None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}[options.amp]
    labels = _gathered(batch['labels'].to(device))
    losses: dict[str, float] = {}

    def encode_images(images):
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            images = images.to(device, non_blocking=True)
            encoder = towers.image_encoder
            return (encoder(images) if images.dim() > 2 else encoder.project(images)).float()

    def encode_texts(texts):
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            return towers.text_encoder(texts).float()

    def objective(image_features, text_features):
        total = image_features.new_zeros(())
        if options.contrastive_weight:
            total = options.contrastive_weight * alignment.loss(image_features, text_features)
        if alignment.quality and options.quality:
            found = quality_loss(alignment.quality(image_features), alignment.quality.maps, labels, ordered, options.quality)
            losses['quality_loss'] = found.item()
            total = total + options.quality.weight * found
        return total

    value = contrastive_backward(objective, encode_images, batch['img'], encode_texts, batch['text'], options.chunk_size,
                                 alignment.scaler)
    if not torch.isfinite(value):
        raise DataError(f'align: the loss is {value.item()} at step {alignment.step}. Lower align: lr, or switch amp off.')
    _optimizer_step(alignment, options)
    return {'loss': value.item(), **losses}


def _gathered(labels: Labels) -> Labels:
    """Return the labels of the pictures of all ranks, in rank order."""
    if processes.world_size() == 1:
        return labels
    # where sets are drawn from alike, one rank may have pictures that judges agree on and another none, or fewer judges
    width = max(processes.gather(0 if labels.agreement is None else labels.agreement.shape[1]))
    agreement = processes.gather_features(padded(labels.agreement, labels.mos_label, width)) if width else None
    return Labels(processes.gather_features(labels.mos_label), processes.gather_features(labels.sets), agreement)


def _optimizer_step(alignment: Alignment, options: AlignOptions) -> None:
    towers, optimizer, scaler = alignment.towers, alignment.optimizer, alignment.scaler
    trained = [parameter for module in (towers.image_encoder, towers.text_encoder) for parameter in module.parameters()
               if parameter.requires_grad]
    processes.sum_gradients(trained)
    if scaler:
        scaler.unscale_(optimizer)
    if options.grad_clip:
        torch.nn.utils.clip_grad_norm_(trained, options.grad_clip)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    alignment.loss.clamp_scale()
    optimizer.zero_grad(set_to_none=True)
    alignment.scheduler.step()
    alignment.step += 1


@torch.no_grad()
def _standardise_projection(towers: Towers, dataset: AlignmentDataset | JoinedAlignment, options: AlignOptions,
                            device: torch.device) -> None:
    """Fix the projection's input standardisation from the first pictures; open_clip towers have none."""
    modules = [module for module in towers.image_encoder.projection.modules()
               if isinstance(module, Standardise) and not module.is_fitted]
    if not modules:
        return
    encoder, features = towers.image_encoder, []
    keys = _first_pictures(dataset, options.standardise_samples)
    for start in progress_bar(range(0, len(keys), 16), desc='standardise', unit='batch', disable=not processes.is_main()):
        images = [item['img'] for item in dataset.__getitems__(keys[start:start + 16])]
        features += [_backbone_row(encoder, image.unsqueeze(0).to(device)).float() for image in images]
    modules[0].fit(torch.cat(features))


def _backbone_row(encoder: ImageEncoder, image: Tensor) -> Tensor:
    """Return (1, W) for a picture (1, 3, H, W), or for its row, which it is already."""
    return encoder.backbone(encoder.preprocess(image)) if image.dim() > 2 else image


def _first_pictures(dataset: AlignmentDataset | JoinedAlignment, samples: int) -> list[tuple[int, ...]]:
    """Return the keys of so many pictures, spread evenly over tables; several sets with one that draws anew share alike."""
    def spread(part: AlignmentDataset | JoinedAlignment, count: int) -> list[int]:
        size = len(part) if not part.table.draws_anew else count
        return torch.linspace(0, size - 1, min(size, count)).long().tolist()

    if not isinstance(dataset, JoinedAlignment) or not any(part.table.draws_anew for part in dataset.parts):
        return [(index, index) for index in spread(dataset, samples)]
    each = max(1, samples // len(dataset.parts))
    return [(number, index, index) for number, part in enumerate(dataset.parts) for index in spread(part, each)]
