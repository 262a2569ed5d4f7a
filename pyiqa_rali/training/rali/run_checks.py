"""What is checked of the data set sections of a RALI run before any file is read."""

from pyiqa_rali.core.errors import OptionError, did_you_mean
from pyiqa_rali.data.prompted import aspects_of
from pyiqa_rali.data.sections import PHASES, DatasetSection, dataset_section, phase_of, refuse_keys, sections_for
from pyiqa_rali.model.image_encoder import open_clip_model_config
from pyiqa_rali.model.text_tower import check_text_tower
from pyiqa_rali.training.rali.batches import pictures_of_shares
from pyiqa_rali.training.rali.options import TrainOptions


def check_sections(options: TrainOptions) -> dict[str, DatasetSection]:
    """Return the data set sections with their gaps filled, by name.

    Raises:
        OptionError: a section's name is not train..., basis..., val... or test..., train is missing, or key_dataset is
            unknown.
    """
    for name in options.datasets:
        if phase_of(name) is None:
            raise OptionError(f'datasets: "{name}" is not train, basis, val or test (val_1, val_2 and so on for several).'
                              f'{did_you_mean(name, PHASES)}')
    if not sections_for(options.datasets, 'train'):
        raise OptionError('datasets: train: must be given.')
    validated = sections_for(options.datasets, 'val', 'test')
    chosen_by = options.val.key_dataset
    for key_dataset in [chosen_by] if isinstance(chosen_by, str) else chosen_by or []:
        if key_dataset not in validated:
            raise OptionError(f'val: key_dataset: "{key_dataset}" is not one of {", ".join(validated) or "none"}.')
    refuse_keys(options.datasets, ('class_column', 'paper_name'), 'has no effect in the training of RALI')
    tested = {name: section for name, section in options.datasets.items() if name in validated}
    refuse_keys(tested, ('share', 'supervision'), 'is for training sets')
    basis = {name: section for name, section in options.datasets.items() if phase_of(name) == 'basis'}
    refuse_keys(basis, ('share',), 'has no effect: stages 2 and 3 take all images of a basis')
    training = sections_for(options.datasets, 'train')
    if len(training) == 1:
        refuse_keys({training[0]: options.datasets[training[0]]}, ('share',),
                    'has no effect: a single training set is all of each batch')
    sections = {name: dataset_section(name, section) for name, section in options.datasets.items()}
    check_shares(sections)
    check_cached_backbone(sections, options)
    check_supervision(sections, options)
    check_scales(sections, options)
    check_prompts(sections, options)
    return sections


def check_shares(sections: dict[str, DatasetSection]) -> None:
    """Check that every training set has pictures in a step, where their number can be told already.

    Raises:
        OptionError: a share is too small for the batch, or a further training set asks for a batch size of its own.
    """
    training = [sections[name] for name in sections_for(sections, 'train')]
    batch_size = training[0].options.batch_size_per_gpu
    for section in training[1:]:
        own = section.options.batch_size_per_gpu
        if own is not None and own != batch_size:
            raise OptionError(f'datasets: {section.section}: batch_size_per_gpu: {own} has no effect: {training[0].section} '
                              f'says how many pictures a step has of all training sets together ({batch_size}), and share how '
                              'many of them are of each. Remove it.')
    shares = [section.options.share for section in training]
    given = [share for share in shares if share is not None]
    if batch_size is not None and len(given) == len(shares) > 1:
        pictures_of_shares(given, batch_size, [section.section for section in training])


def choosing_sections(options: TrainOptions) -> list[str]:
    """Return the validation sets that choose the best epoch; test sets only where they are asked for or all there are."""
    chosen_by = options.val.key_dataset
    if chosen_by is None:
        return sections_for(options.datasets, 'val') or sections_for(options.datasets, 'test')
    return [chosen_by] if isinstance(chosen_by, str) else chosen_by


def check_prompts(sections: dict[str, DatasetSection], options: TrainOptions) -> None:
    """Check that alignment with prompts can be learned, where a data set has MOS of it.

    Raises:
        OptionError: `aspects` and `prompt_column` are not together, no set that stage 3 learns from has them, or the encoder
            has no text tower that a checkpoint can keep.
    """
    found = [name for name, section in sections.items() if aspects_of(section) is not None]
    if not found:
        return
    learned = sections_for(sections, 'basis') or sections_for(sections, 'train')
    if not set(learned) & set(found):
        raise OptionError(f'datasets: {found[0]}: aspects: alignment has to be learned to be validated, and none of '
                          f'{", ".join(learned)} has aspects. Give aspects and prompt_column there too.')
    encoder = options.network.get('image_encoder') or {}
    if encoder.get('library') != 'open_clip' or options.text_encoder.library != 'open_clip':
        raise OptionError(f'datasets: {found[0]}: aspects: alignment with prompts needs an encoder with its own text tower, '
                          f'library: open_clip in network: image_encoder (here {encoder.get("library")}) and in text_encoder '
                          f'(here {options.text_encoder.library}). Change them, or leave aspects out.')
    check_text_tower(str(encoder.get('name')), open_clip_model_config(str(encoder.get('name'))))


def check_supervision(sections: dict[str, DatasetSection], options: TrainOptions) -> None:
    """Check that order alone teaches where something learns from it, and that a set with values gives the scale.

    Raises:
        OptionError: the first set has no values, or no stage has a rank loss.
    """
    quality = options.align.quality
    in_stage_1, in_stage_3 = quality is not None and quality.rank_weight > 0, options.score.rank_weight > 0
    own_basis = bool(sections_for(sections, 'basis'))  # then stage 3 does not see the training sets
    for phase, learns, weights in (('train', in_stage_1 or (in_stage_3 and not own_basis),
                                    'align: quality: rank_weight' if own_basis else 'score: rank_weight or align: quality: '
                                                                                    'rank_weight'),
                                   ('basis', in_stage_3, 'score: rank_weight')):
        names = sections_for(sections, 'train' if phase == 'train' else 'basis')
        ordered = [name for name in names if sections[name].options.supervision == 'order']
        if names and names[0] in ordered:
            raise OptionError(f'datasets: {names[0]}: supervision: order cannot be that of the first {phase} set, which gives '
                              'the scale of the scores. Put a set whose MOS count first.')
        if ordered and not learns:
            raise OptionError(f'datasets: {ordered[0]}: supervision: order teaches nothing without a rank loss. Give '
                              f'{weights}.')


def check_scales(sections: dict[str, DatasetSection], options: TrainOptions) -> None:
    """Check that stage 3 brings labels of different scales together, where the options say that scales differ.

    Raises:
        OptionError: without fine-tuning, basis scores would be means over labels that are not on one scale.
    """
    score, names = options.score, sections_for(sections, 'basis') or sections_for(sections, 'train')
    if score.fine_tune or len(names) == 1:
        return
    if score.heads != 'none':
        raise OptionError(f'score: heads: {score.heads} is learned in fine-tuning, and fine_tune is false: basis scores would '
                          f'be means over the labels of {", ".join(names)}, which are not on one scale. Set fine_tune to '
                          'true, or heads to none if they are.')
    if ordered := [name for name in names if sections[name].options.supervision == 'order']:
        raise OptionError(f'datasets: {ordered[0]}: supervision: order needs fine-tuning, and score: fine_tune is false.')


def check_cached_backbone(sections: dict[str, DatasetSection], options: TrainOptions) -> None:
    """Check that what `align: cache_backbone` computes once would be the same each time.

    Raises:
        OptionError: the backbone is trained, or pictures are augmented.
    """
    if not options.align.cache_backbone:
        return
    if options.align.freeze_layers != -1:
        raise OptionError('align: cache_backbone: true needs a backbone that stays as it is, freeze_layers: -1; it is '
                          f'{options.align.freeze_layers}. Change one of the two.')
    for name, section in sections.items():
        augment = section.values.get('augment')
        if augment:
            raise OptionError(f'datasets: {name}: augment: {augment} changes the pictures, and align: cache_backbone: true '
                              'encodes each whole picture once. Remove augment, or set cache_backbone to false.')
