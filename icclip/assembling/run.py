"""Join two pretrained towers into one checkpoint that trains, evaluates and exports like any other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icclip.config import AssembleConfig, ModelConfig
from icclip.console import Reporter
from icclip.errors import CheckpointError
from icclip.files import atomic_directory
from icclip.plugins.registry import Registry
from icclip.report.assembly import assembly_table
from icclip.runs.claim import claim_beside, claimed

if TYPE_CHECKING:
    from rich.console import RenderableType
    from torch import Tensor

    from icclip.assembling.towers import OpenedTower
    from icclip.models.loaded import LoadedModel
    from icclip.plugins.specs import BackendSpec

MODEL_TYPE = "vision-text-dual-encoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembleResult:
    """What `icclip assemble` wrote."""

    output_dir: Path
    vision: str
    """The vision tower's model type."""
    text: str
    vision_width: int
    """The width of the pooled output that is projected."""
    text_width: int
    embedding_dim: int
    parameters: int

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output_dir": str(self.output_dir),
            "vision": {"model_type": self.vision, "width": self.vision_width},
            "text": {"model_type": self.text, "width": self.text_width},
            "embedding_dim": self.embedding_dim,
            "parameters": self.parameters,
        }

    def renderables(self) -> Iterable[RenderableType]:
        """A table with a row for each tower."""
        towers = (("vision", self.vision, self.vision_width), ("text", self.text, self.text_width))
        title = f"{self.output_dir}, {self.parameters / 1e6:.1f} M parameters"
        return [assembly_table(title, towers, self.embedding_dim)]

    def verdict(self) -> None:
        """Assembling always succeeds, because an untrained model has no threshold to miss."""


def assemble(config: AssembleConfig, registry: Registry, reporter: Reporter) -> AssembleResult:
    """Write a dual encoder of two pretrained towers and new projections, with its whole processor.

    Raises:
        UsageError: a tower is not found.
        CheckpointError: a model cannot serve as a tower; the message says why.
        OSError: the files cannot be written, for example because the disk is full.
    """
    with claimed(config.output_dir, claim_beside(config.output_dir), reporter.note):
        return _assemble(config, registry, reporter)


def _assemble(config: AssembleConfig, registry: Registry, reporter: Reporter) -> AssembleResult:
    from icclip.assembling.towers import open_text, open_vision

    vision = open_vision(_tower(config, config.vision, config.vision_revision))
    text = open_text(_tower(config, config.text, config.text_revision))
    for tower in (vision, text):
        if tower.new:
            reporter.warn(
                f"{tower.source} has no weights for {', '.join(tower.new)}: they start out random and have to be trained"
            )
    loaded = _joined(vision, text, config, registry.backend_for(MODEL_TYPE, "a model of two towers"))
    with atomic_directory(config.output_dir) as staging:
        loaded.save(staging)
        _check_written(loaded, staging)
    reporter.note(f"wrote {config.output_dir}, a model that `icclip train` can start from")
    return AssembleResult(
        output_dir=config.output_dir,
        vision=vision.model.config.model_type,
        text=text.model.config.model_type,
        vision_width=vision.width,
        text_width=text.width,
        embedding_dim=config.projection_dim,
        parameters=loaded.describe()["parameters"],
    )


def _tower(config: AssembleConfig, name: str, revision: str | None) -> ModelConfig:
    return ModelConfig(name=name, revision=revision, seed=config.seed, trust_remote_code=config.trust_remote_code)


def _joined(vision: OpenedTower, text: OpenedTower, config: AssembleConfig, backend: BackendSpec) -> LoadedModel:
    """The two towers with new projections, whose weights depend on the seed alone."""
    import torch
    from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel, VisionTextDualEncoderProcessor

    from icclip.models.loaded import LoadedModel
    from icclip.models.quiet import quiet_transformers

    for tower in (vision, text):
        # The path that it was read from means nothing on another machine.
        tower.model.config.name_or_path = ""
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        joined = VisionTextDualEncoderConfig.from_vision_text_configs(
            vision.model.config, text.model.config, projection_dim=config.projection_dim
        )
        model = VisionTextDualEncoderModel(joined, vision_model=vision.model, text_model=text.model)
        torch.manual_seed(config.seed)
        for projection in (model.visual_projection, model.text_projection):
            # Initialised like CLIP's own projections, so that the embedding is about as long as its input, whatever the widths.
            torch.nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        processor = VisionTextDualEncoderProcessor(vision.feeder, text.feeder)
    return LoadedModel.of(model.eval(), processor, backend, str(config.output_dir))


def _check_written(loaded: LoadedModel, directory: Path) -> None:
    """Check that the checkpoint opens again unchanged, because not every library version can read what it wrote."""
    again = loaded.backend.load(ModelConfig(name=str(directory)))
    for before, after in zip(_features(loaded), _features(again), strict=True):
        if not before.allclose(after, rtol=1e-4, atol=1e-5):
            raise CheckpointError(
                "the two towers give different embeddings after saving and reloading: "
                "this version of transformers cannot store them together"
            )


def _features(loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    import torch
    from PIL import Image

    image, text = loaded.feeder.image_inputs([Image.new("RGB", (48, 40), "red")]), loaded.feeder.text_inputs(["a dog"])
    with torch.inference_mode():
        return loaded.image_features(image), loaded.text_features(text)
