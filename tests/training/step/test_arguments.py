from __future__ import annotations

import dataclasses

import pytest
from torch import nn
from transformers import Trainer

from icclip.errors import ConfigError, UnknownNameError, UsageError
from icclip.training.step.arguments import converted, planned_steps, training_arguments


def test_what_the_run_asks_for_reaches_transformers(config):
    arguments = training_arguments(dataclasses.replace(config, warmup_ratio=0.25), workers=0)
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.get_warmup_steps(100) == 25
    assert arguments.weight_decay == 0.1
    assert arguments.max_grad_norm == 1.0
    assert arguments.dataloader_drop_last
    assert arguments.device.type == "cpu"


def test_settings_take_the_type_of_their_field():
    values = {
        "max_grad_norm": "0.5", "adam_beta2": "0.98", "eval_delay": "2", "eval_accumulation_steps": "60", "run_name": "12",
        "full_determinism": "true", "torch_compile_backend": "none", "lr_scheduler_kwargs": '{"num_cycles": 2}',
        "label_names": "a,b", "optim": "adamw_torch",
    }  # fmt: skip
    assert converted(values) == {
        "max_grad_norm": 0.5, "adam_beta2": 0.98, "eval_delay": 2.0, "eval_accumulation_steps": 60, "run_name": "12",
        "full_determinism": True, "torch_compile_backend": None, "lr_scheduler_kwargs": {"num_cycles": 2},
        "label_names": ["a", "b"], "optim": "adamw_torch",
    }  # fmt: skip


def test_a_setting_that_does_not_exist_suggests_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"unknown training argument 'max_grad_nrm'; did you mean 'max_grad_norm'"
    ):
        converted({"max_grad_nrm": "1"})


def test_wrong_settings_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        converted({"max_grad_norm": "much", "learning_rate": "1"})
    assert caught.value.problems == (
        "--set max_grad_norm=much: expected float",
        "--set learning_rate: use --lr",
    )


def test_no_run_inherits_the_precision_of_the_one_before(config):
    for precision, of_accelerate in (("bf16", "bf16"), ("fp32", "no")):
        arguments = training_arguments(dataclasses.replace(config, precision=precision), workers=0)
        trainer = Trainer(nn.Linear(1, 1), arguments, eval_dataset=[0])
        assert trainer.accelerator.mixed_precision == of_accelerate


def test_fp16_needs_a_gpu(config):
    with pytest.raises(UsageError, match=r"fp16 needs a GPU: use --bf16 or --fp32"):
        training_arguments(dataclasses.replace(config, precision="fp16"), workers=0)


def test_what_transformers_refuses_is_one_line(config):
    with pytest.raises(UsageError, match=r"transformers refuses the training arguments: .*nonsense"):
        training_arguments(dataclasses.replace(config, scheduler="nonsense"), workers=0)


@pytest.mark.parametrize(("images", "accumulated", "steps"), [(8, 1, 8), (9, 1, 8), (8, 3, 4), (1, 1, 0)])
def test_steps_are_planned_as_transformers_counts_them(config, images, accumulated, steps):
    arguments = training_arguments(dataclasses.replace(config, grad_accum=accumulated), workers=0)
    assert planned_steps(arguments, images) == steps
