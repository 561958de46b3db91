"""The sections of a configuration, each with its defaults."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..data import Distortions
from ..errors import UserError
from ..runs import size_name
from ..spaces import BUILTIN, Resolutions, Space, StrictModel, WidthMults
from .values import Count, Positive


class RuntimeConfig(StrictModel):
    """Where a run computes, and how exactly; `runtime.Runtime` is made from it.

    Attributes:
        device: where to train.
        precision: ``float32``; ``tf32``, in which GPUs round what they multiply to 10 bits;
            ``bf16`` or ``fp16``, by autocast, the latter with a scaled loss.
        threads: torch threads on the CPU; all cores when absent.
        decoding: what decodes and augments JPEG files: ``cpu``, in the processes that read them, or
            ``cuda``, by nvJPEG on the device that trains, with the package TorchCodec.
        sync_batch_norm: whether BatchNorms normalise by the whole batch where several ranks share
            it, in plain layers, instead of each by its own slice.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "tf32", "bf16", "fp16"] = "float32"
    threads: Count | None = None
    decoding: Literal["cpu", "cuda"] = "cpu"
    sync_batch_norm: bool = False


class SpaceConfig(StrictModel):
    """Which space to search: one that comes with the package, or a YAML file of your own.

    Attributes:
        width_mult: what its channels are multiplied by, and then rounded to multiples of 8.
        resolution: of the pictures, in pixels.
        width_mults, resolutions: several instead; `proxyless specialise` searches every combination
            of them. What is absent, width or resolution, is as the space says itself.
        weights: ``shared`` by the MBConvs of an edge or ``separate``, as published; if absent, as
            the space's file says, and else ``shared``.
    """

    name: str = "cifar_mbconv"
    width_mult: Positive | None = None
    resolution: Count | None = None
    width_mults: WidthMults = ()
    resolutions: Resolutions = ()
    weights: Literal["separate", "shared"] | None = None

    def build(self) -> Space:
        """The space, with as many classes as it says itself.

        Raises:
            UserError: it is neither built in nor a readable file, or it has several sizes.
        """
        names, said = list(self.sizes()), self.spelled_out()
        if len(names) > 1:
            raise UserError(
                f"space '{self.name}' has {len(names)} sizes here, {', '.join(names)}; use "
                "proxyless specialise, which searches all of them, or set one width and resolution"
            )
        space = self._find()
        own = space.weights if "weights" in space.model_fields_set else "shared"
        space = space.resized(said.width_mults[0], said.resolutions[0])
        return space.model_copy(update={"weights": self.weights or own})

    def sizes(self) -> dict[str, SpaceConfig]:
        """The same for each width and resolution, by the names of these sizes; most have one.

        Raises:
            UserError: as of `build`, or a size is asked for twice.
        """
        sizes: dict[str, SpaceConfig] = {}
        said = self.spelled_out()
        for width_mult, resolution in itertools.product(said.width_mults, said.resolutions):
            if (name := size_name(width_mult, resolution)) in sizes:
                raise UserError(f"the size {name} is asked for twice; leave out one of them")
            size = {"width_mult": width_mult, "resolution": resolution}
            sizes[name] = self.model_copy(update={**size, "width_mults": (), "resolutions": ()})
        return sizes

    def spelled_out(self) -> SpaceConfig:
        """The same with all widths and resolutions, also those that the space says itself."""
        widths, resolutions = self.width_mults, self.resolutions
        if not widths:
            widths = (self.width_mult,) if self.width_mult else self._find().width_mults or (1.0,)
        if not resolutions and self.resolution:
            resolutions = (self.resolution,)
        elif not resolutions:
            space = self._find()
            resolutions = space.resolutions or (space.resolution,)
        said = {"width_mults": widths, "resolutions": resolutions}
        return self.model_copy(update={"width_mult": None, "resolution": None, **said})

    def _find(self) -> Space:
        """The space as it says itself."""
        if builder := BUILTIN.get(self.name):
            return builder()
        if not Path(self.name).is_file():
            raise UserError(
                f"'{self.name}' is neither a space ({', '.join(BUILTIN)}) nor a YAML file of one"
            )
        return Space.load(self.name)


class OptimizerConfig(StrictModel):
    """SGD with momentum 0.9 (Nesterov), cosine rate per batch and label smoothing.

    Attributes:
        lr: from which the rate falls to 0.
        rise_epochs: over which it rises to `lr` before, linearly (Goyal et al., 2017).
        clip_norm: the norm of all gradients together is at most this; if absent, it can be any.
        parts: of a batch, computed one after the other, whose gradients are added up, so that a
            batch may be larger than memory; BatchNorms normalise by a part.
    """

    epochs: Annotated[int, Field(ge=0)]
    lr: Positive
    rise_epochs: float = Field(0.0, ge=0)
    batch_size: Count = 256
    parts: Count = 1
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(4e-5, ge=0)
    clip_norm: Positive | None = None
    label_smoothing: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check_rise(self) -> OptimizerConfig:
        if 0 < self.epochs <= self.rise_epochs:
            raise UserError(
                f"rise_epochs is {self.rise_epochs:g}, and there are {self.epochs} epochs; lower it"
            )
        return self


class SupernetConfig(OptimizerConfig):
    """Weight steps of a supernet.

    Attributes:
        paths_per_step: so many paths, which differ on every edge as far as it has candidates, each
            on its part of the batch; several ranks divide them. BatchNorms normalise by a part.
    """

    paths_per_step: Count = 1

    def paths_of_rank(self, world: int) -> int:
        """How many of a step's paths each of so many ranks runs.

        Raises:
            UserError: they cannot run equally many, nor equally many of them each path.
        """
        if self.paths_per_step % world and world % self.paths_per_step:
            raise UserError(
                f"paths_per_step is {self.paths_per_step} and there are {world} ranks; give a "
                "multiple of the ranks or a number that divides them"
            )
        return max(1, self.paths_per_step // world)

    @model_validator(mode="after")
    def _check_parts(self) -> SupernetConfig:
        if self.parts > 1 and self.paths_per_step > 1:
            raise UserError(
                f"parts is {self.parts} and paths_per_step {self.paths_per_step}, and both divide "
                "a batch; leave out one of them"
            )
        return self


class WarmupConfig(SupernetConfig):
    """Training with paths drawn from the initial alphas, which stay fixed."""

    epochs: Annotated[int, Field(ge=0)] = 40
    lr: Positive = 0.05


class SearchConfig(SupernetConfig):
    """The alternating search.

    Attributes:
        paths: of its weight steps: ``uniform``, all candidates being equally probable, as in the
            warm-up, or ``sampled`` from the alphas, as published.
    """

    epochs: Count = 120
    lr: Positive = 0.025
    paths: Literal["uniform", "sampled"] = "uniform"

    @model_validator(mode="after")
    def _check_paths(self) -> SearchConfig:
        if self.paths_per_step > 1 and self.paths != "uniform":
            raise UserError(
                f"paths_per_step is {self.paths_per_step}, which is for uniform paths; set "
                "search.paths to uniform, or leave paths_per_step out"
            )
        return self


class GatesConfig(StrictModel):
    """Gate steps: how the alphas learn.

    Attributes:
        mode: ``full``, the exact gradient over all candidates, ``two_path``, the same over two
            drawn ones, or ``reinforce``.
        every: a gate step after so many weight steps, not in the first epoch.
        lr: of Adam with betas (0, 0.999) and no weight decay.
        batch_size: pictures of a gate step.
        networks: sampled by each REINFORCE update.
        baseline_decay: of REINFORCE's moving average of rewards.
    """

    mode: Literal["full", "two_path", "reinforce"] = "full"
    every: Count = 5
    lr: Positive = 1e-3
    batch_size: Count = 256
    networks: Count = 10
    baseline_decay: float = Field(0.99, ge=0, lt=1)


class DeriveConfig(StrictModel):
    """From the supernet to the network that is handed over.

    Attributes:
        networks: to be scored on held-out training pictures in a generation of the short list; with
            0 the most probable network is taken as it is, as published.
        generations: of offspring, after the first.
        pictures: that networks are scored on, at least.
        finalists: the best of the short list, whose training begins; the worse half drops out after
            every round, all but one after the last.
        round: length of the first round, as a part of the training; every other doubles the
            training so far, and there are as many as the training has room for.
    """

    networks: Annotated[int, Field(ge=0)] = 64
    generations: Annotated[int, Field(ge=0)] = 2
    pictures: Count = 2000
    finalists: Count = 8
    round: Annotated[float, Field(gt=0, le=1)] = 0.25

    @model_validator(mode="after")
    def _check(self) -> DeriveConfig:
        if self.networks and self.finalists > self.networks * (1 + self.generations):
            raise UserError(
                f"derive.finalists is {self.finalists}, more than the short list has networks; "
                "lower it or raise derive.networks"
            )
        return self


class TrainConfig(OptimizerConfig, Distortions):
    """Training of a derived network.

    Attributes:
        weights: start from fresh weights or from those the network has in the supernet.
        dropout: before the classifier.
        drop_path: how often the last of the branches beside shortcuts is left out, for a picture;
            the others less often, in proportion to their depth (Huang et al., 2016).
        mixup: both parameters of the Beta distribution by which pictures of a batch are mixed with
            each other (Zhang et al., 2018); 0 mixes none.
        cutmix: the same for boxes that are taken from each other (Yun et al., 2019); of both
            settings, every batch gets one at random.
        ema_decay: of the averaged weights that are evaluated and kept; 0 keeps the last weights.
    """

    epochs: Annotated[int, Field(ge=0)] = 300
    lr: Positive = 0.05
    weights: Literal["scratch", "inherit"] = "scratch"
    dropout: float = Field(0.0, ge=0, lt=1)
    drop_path: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)


class ComparisonConfig(StrictModel):
    """What the derived network is compared with, given the same training.

    Attributes:
        random_networks: networks drawn from the space within the tolerance of the derived one's
            latency.
        short_list: the best others of the short list.
        yardsticks: measure MobileNetV2 and MnasNet beside it.
    """

    random_networks: Annotated[int, Field(ge=0)] = 0
    short_list: Annotated[int, Field(ge=0)] = 0
    yardsticks: bool = True
