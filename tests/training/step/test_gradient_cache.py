"""Against the plain computation: the same micro-batches encoded with their graph, all of it kept."""

from __future__ import annotations

import contextlib
import dataclasses
import re

import pytest
import torch

from icclip.config import LoraConfig, ModelConfig, TrainConfig
from icclip.console import Reporter
from icclip.errors import ConfigError
from icclip.models.opening import open_model
from icclip.runs.history import read_history
from icclip.training.feeding.collate import CaptionedImages, split_batch
from icclip.training.gentle.plan import Gentle
from icclip.training.run import train
from icclip.training.step.arguments import training_arguments
from icclip.training.step.gradient_cache import micro_batches
from icclip.training.step.trainer import ContrastiveTrainer

MICRO = 3
"""The last micro-batch of 16 pairs has one."""


@pytest.fixture(params=["softmax", "sigmoid"])
def loaded(request, registry, tiny):
    return open_model(registry, ModelConfig(name=str(tiny[request.param])))


@pytest.fixture
def trainer_of(loaded, config, pictures, captions):
    def build(**options) -> ContrastiveTrainer:
        arguments = training_arguments(dataclasses.replace(config, train_bs=16, **options), workers=0)
        data = CaptionedImages(pictures, captions)
        trainer = ContrastiveTrainer(loaded, arguments, data, lambda _: {"rsum": 0.0}, micro_batch=MICRO)
        trainer.current_gradient_accumulation_steps = arguments.gradient_accumulation_steps
        with_dropout(loaded.model)
        return trainer

    return build


def with_dropout(model, probability=0.3):
    """CLIP and SigLIP have it in their attention, at zero."""
    found = [module for module in model.modules() if isinstance(getattr(module, "dropout", None), float)]
    for module in found:
        module.dropout = probability
    assert len(found) >= 2, "both towers"


def batch_of(trainer, epoch=0):
    return trainer.data_collator([trainer.train_dataset[epoch, row] for row in range(16)])


def plain_step(trainer, batch):
    """The loss and its gradients; every micro-batch draws its dropout as it would by itself."""
    inputs, ids = split_batch(batch)
    trainer.model.train()
    with trainer.compute_loss_context_manager():
        # Dropout draws as many numbers as there are tokens.
        parts = map(trainer.loaded.feeder.without_padding, micro_batches(inputs, MICRO))
        outputs = [trainer.model(**part) for part in parts]
        image, text = (torch.cat([output[name] for output in outputs]) for name in ("image_embeds", "text_embeds"))
        loss = trainer._loss(image, text, ids) / trainer.current_gradient_accumulation_steps
    loss.backward()
    return loss.detach()


def taken(model):
    """The gradients, which are gone then."""
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def compared(trainer, cached, plain, atol=1e-6, rtol=1e-4):
    """Both with the same random state -> the largest gradient, as a check that there were any."""
    model = trainer.loaded.model
    torch.manual_seed(7)
    cached_loss, cached_gradients = cached(), taken(model)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    plain_loss, plain_gradients = plain(), taken(model)
    assert torch.equal(after, torch.get_rng_state())
    torch.testing.assert_close(cached_loss, plain_loss, atol=atol, rtol=rtol)
    assert cached_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(
            cached_gradients[name], gradient, atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}"
        )
    return plain_gradients


def test_every_gradient_is_that_of_the_whole_batch(trainer_of):
    trainer = trainer_of()
    batch = batch_of(trainer)
    gradients = compared(
        trainer, lambda: trainer.training_step(trainer.model, batch), lambda: plain_step(trainer, batch)
    )
    assert gradients.keys() == {name for name, _ in trainer.model.named_parameters()}
    assert all(gradient.any() for name, gradient in gradients.items() if not name.endswith("k_proj.bias"))


def test_dropout_mattered(trainer_of):
    trainer = trainer_of()
    batch = batch_of(trainer)
    losses = [plain_step(trainer, batch).item() for _ in range(2)]
    assert losses[0] != losses[1]


def test_without_dropout_it_is_the_plain_step_of_the_trainer(trainer_of):
    trainer = trainer_of()
    with_dropout(trainer.model, 0.0)
    batch = batch_of(trainer)

    def plain():
        trainer.micro_batch = None
        return trainer.training_step(trainer.model, batch)

    compared(trainer, lambda: trainer.training_step(trainer.model, batch), plain)


@pytest.mark.parametrize("size", [1, 3, 15])
def test_any_micro_batch_gives_the_same(trainer_of, size):
    trainer = trainer_of()
    with_dropout(trainer.model, 0.0)
    batch = batch_of(trainer)

    def plain():
        trainer.micro_batch = None
        return trainer.training_step(trainer.model, batch)

    trainer.micro_batch = size
    compared(trainer, lambda: trainer.training_step(trainer.model, batch), plain)


def test_with_gradient_checkpointing(trainer_of):
    trainer = trainer_of(grad_ckpt=True)
    batch = batch_of(trainer)

    def checkpointed():
        # As transformers 5 and 4 call it.
        kind = "activation" if hasattr(trainer.model, "activation_checkpointing_enable") else "gradient"
        getattr(trainer.model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        loss = trainer.training_step(trainer.model, batch)
        getattr(trainer.model, f"{kind}_checkpointing_disable")()
        return loss

    compared(trainer, checkpointed, lambda: plain_step(trainer, batch))


def test_with_autocast(trainer_of):
    trainer = trainer_of(precision="bf16")
    batch = batch_of(trainer)
    gradients = compared(
        trainer,
        lambda: trainer.training_step(trainer.model, batch),
        lambda: plain_step(trainer, batch),
        # Between micro-batches the plain computation adds up in bfloat16, of 8 bits.
        atol=2e-3,
        rtol=2e-2,
    )
    assert gradients.keys() == {name for name, _ in trainer.model.named_parameters()}


def test_accumulated_batches_count_as_the_mean_of_independent_ones(trainer_of):
    trainer = trainer_of(grad_accum=2)
    batches = [batch_of(trainer, epoch) for epoch in (0, 1)]
    compared(
        trainer,
        lambda: sum(trainer.training_step(trainer.model, batch) for batch in batches),
        lambda: sum(plain_step(trainer, batch) for batch in batches),
    )


def test_the_scale_that_fp16_needs_is_on_every_gradient_once(trainer_of):
    trainer = trainer_of()
    batch = batch_of(trainer)

    def scaled():
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        loss = trainer.training_step(trainer.model, batch)
        for parameter in trainer.model.parameters():
            parameter.grad /= 1024
        return loss

    compared(trainer, scaled, lambda: plain_step(trainer, batch))


def test_what_is_frozen_stays_without_gradient(trainer_of):
    trainer = trainer_of()
    trainer.model.vision_model.requires_grad_(requires_grad=False)
    trainer.model.logit_scale.requires_grad_(requires_grad=False)
    batch = batch_of(trainer)
    gradients = compared(
        trainer, lambda: trainer.training_step(trainer.model, batch), lambda: plain_step(trainer, batch)
    )
    assert not any(name.startswith("vision_model") or name == "logit_scale" for name in gradients)


def test_adapters_with_dropout_of_their_own(trainer_of, config):
    trainer = trainer_of()
    Gentle.prepare(trainer.loaded, dataclasses.replace(config, lora=LoraConfig(rank=2, dropout=0.3)))
    batch = batch_of(trainer)
    gradients = compared(
        trainer, lambda: trainer.training_step(trainer.model, batch), lambda: plain_step(trainer, batch)
    )
    assert {"logit_scale"} < gradients.keys()
    assert all("lora_" in name or name.startswith("logit_") for name in gradients)
    assert any(gradient.any() for name, gradient in gradients.items() if "lora_B" in name)


def test_the_processes_are_told_once_with_the_last_micro_batch(trainer_of):
    trainer = trainer_of()
    seen, quiet = [], False

    @contextlib.contextmanager
    def no_sync(_model):
        nonlocal quiet
        before, quiet = quiet, True
        yield
        quiet = before

    trainer.accelerator.no_sync = no_sync
    for name, parameter in trainer.model.named_parameters():
        # Where DDP exchanges gradients.
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append((name, quiet)))
    trainer.training_step(trainer.model, batch_of(trainer))
    names = {name for name, _ in trainer.model.named_parameters()}
    assert sorted(name for name, told in seen if not told) == sorted(names)
    # The five micro-batches before know nothing of the temperature.
    assert len(seen) == 6 * len(names) - 5 * len({"logit_scale", "logit_bias"} & names)


def test_no_more_than_a_micro_batch_is_encoded_at_once(trainer_of):
    trainer = trainer_of()
    sizes = []
    trainer.model.vision_model.register_forward_pre_hook(
        lambda _module, args, kwargs: sizes.append(len(kwargs.get("pixel_values", *args))), with_kwargs=True
    )
    trainer.training_step(trainer.model, batch_of(trainer))
    assert sizes == [3, 3, 3, 3, 3, 1] * 2


def test_a_micro_batch_is_views_of_the_batch():
    batch = {"a": torch.arange(10).reshape(5, 2), "b": torch.arange(5)}
    parts = micro_batches(batch, 2)
    assert [part["b"].tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert parts[1]["a"].data_ptr() == batch["a"][2:].data_ptr()


def curve_of(config, registry):
    train(config, registry, Reporter(silent=True))
    lines = read_history(config.output_dir / "metrics.jsonl")
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-4), ({"grad_accum": 2, "precision": "bf16", "grad_ckpt": True}, 1e-2)],
    ids=["plain", "composed"],
)
def test_a_run_in_micro_batches_has_the_curve_of_one_without(loaded, config, registry, options, tolerance):
    # Adam would blow rounding up where a gradient is all but zero; these steps are as long as the gradient.
    whole = dataclasses.replace(
        config,
        model=ModelConfig(name=loaded.source),
        train_bs=4,
        epochs=3,
        lr=0.1,
        training_args={"optim": "sgd"},
        **options,
    )
    plain = curve_of(whole, registry)
    assert len(plain) == 6 // options.get("grad_accum", 1)
    assert max(plain) - min(plain) > 10 * tolerance
    micro = dataclasses.replace(whole, micro_batch=3, output_dir=whole.output_dir.with_name("micro"))
    assert curve_of(micro, registry) == pytest.approx(plain, abs=tolerance)


def test_the_header_says_what_is_encoded_at_once_and_that_negatives_stay(config, registry, capsys):
    train(dataclasses.replace(config, train_bs=4, micro_batch=2, epochs=1), registry, Reporter())
    said = capsys.readouterr().err
    assert re.search(r"batch +4 \(encoded 2 at a time\) x 1 processes x 1 accumulated", said)
    assert re.search(r"negatives +3 per positive and step", said)


def test_a_micro_batch_larger_than_the_batch_is_refused():
    values = {"model": {"name": "m"}, "data": {"name": "shapes"}, "output_dir": "x", "train_bs": 8, "micro_batch": 9}
    with pytest.raises(ConfigError, match="micro_batch is 9: it must be at most train_bs, which is 8"):
        TrainConfig.from_mapping(values)
