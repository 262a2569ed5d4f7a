"""What we rely on in TRL and transformers: an upgrade that breaks it is seen here."""

import dataclasses
import inspect

import torch
import trl
from transformers import Trainer
from trl.trainer.utils import RepeatSampler

from pyiqa_rali.training.vlm.trainers import EpochRepeatSampler, ReasoningGRPOTrainer
from pyiqa_rali.vlm.loading import load_vlm
from pyiqa_rali.vlm.tables import Row
from tests.tiny import tiny_vlm


def test_the_methods_that_we_override_are_still_there():
    assert list(inspect.signature(Trainer._load_from_checkpoint).parameters)[:3] == ['self', 'resume_from_checkpoint', 'model']
    assert list(inspect.signature(trl.GRPOTrainer._get_train_sampler).parameters)[:2] == ['self', 'dataset']
    assert ReasoningGRPOTrainer._load_from_checkpoint is not Trainer._load_from_checkpoint


def test_the_sampler_has_the_arguments_that_we_pass_on():
    names = list(inspect.signature(RepeatSampler.__init__).parameters)
    assert names == ['self', 'data_source', 'mini_repeat_count', 'batch_size', 'repeat_count', 'shuffle', 'seed']
    sampler = EpochRepeatSampler(list('abcdef'), 2, 3, 1, True, 0)
    sampler.set_epoch(1)
    first = list(sampler)
    list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == first and len(first) == 12
    sampler.set_epoch(2)
    assert list(sampler) != first


def test_the_configurations_have_the_fields_that_we_set():
    grpo = {item.name for item in dataclasses.fields(trl.GRPOConfig)}
    sft = {item.name for item in dataclasses.fields(trl.SFTConfig)}
    assert {'bf16', 'gradient_checkpointing', 'use_bias_correction_kl', 'loss_type', 'beta', 'num_generations', 'use_cpu',
            'num_iterations', 'steps_per_generation', 'generation_kwargs', 'reward_weights', 'max_completion_length'} <= grpo
    assert {'max_length', 'completion_only_loss', 'bf16', 'gradient_checkpointing', 'use_cpu'} <= sft


def test_the_defaults_that_we_change_are_still_others():
    """When one of them becomes ours, the line in DEFAULTS can go."""
    config = {item.name: item.default for item in dataclasses.fields(trl.GRPOConfig)}
    assert config['loss_type'] != 'grpo' and config['beta'] == 0.0 and config['use_bias_correction_kl'] is True


def test_a_checkpoint_has_other_names_for_weights_than_the_model(tmp_path):
    """Why the stock resumption is not used: with strict=False it would load nothing, and say little."""
    from safetensors.torch import load_file
    folder = tiny_vlm(tmp_path / 'tiny')
    model = load_vlm(folder).model
    saved = load_file(folder / 'model.safetensors')
    loaded = type(model).from_pretrained(folder)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert set(saved) != set(model.state_dict())


def test_generation_takes_what_we_give(tmp_path):
    from transformers import GenerationConfig
    assert GenerationConfig(suppress_tokens=[1], do_sample=False).suppress_tokens == [1]
    model = load_vlm(tiny_vlm(tmp_path / 'tiny')).model
    assert 'logits_to_keep' in inspect.signature(model.forward).parameters


def test_a_row_is_told_as_earlier_versions_did_unless_it_is_read_otherwise():
    assert repr(Row('a.png', 'one', mos=3.0)) == ("Row(image_path='a.png', dataset='one', task='score', mos=3.0, "
                                                  "distortion_class='', severity='')")
    assert repr(Row('a.png', 'one', upright=False)).endswith("severity='', upright=False)")
