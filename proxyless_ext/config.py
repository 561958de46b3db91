"""The configuration of a run: everything a YAML file or the command line can set, with the
published values.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from .data import DataConfig, Distortions, is_named_source
from .documents import parse_document
from .errors import UserError
from .latency import COUNTS, Conditions, Costs, CountName, Remote
from .latency.conditions import BUILT_IN, BlocksName, DeviceName, DtypeName, usual_blocks
from .latency.fit import FEWEST
from .latency.remote import REMOTE_REPETITIONS
from .quantities import amount_within, parse_amount, split_unit
from .runs import network_name, size_name
from .spaces import (
    BUILTIN,
    Resolutions,
    Space,
    StrictModel,
    WidthMults,
    load_plugins,
    read_mapping,
    validate,
)

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


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


class LatencyConfig(StrictModel):
    """Where latencies come from and how they enter the search.

    Attributes:
        table: a latency table to use; when absent, one is measured on this machine. Of several
            sizes, each can have its own, as in ``phone-{size}.yaml``.
        backend: what runs the layers when they are measured, ``eager``, ``compile``,
            ``onnxruntime`` or a plug-in's; `dtype`, `blocks`, `device`, `batch_size`, `threads`,
            `warmup` and `repetitions` say how.
        remote: of a device elsewhere, the command that measures on it and how its output is read,
            as a table's conditions record it; of a plug-in's backend, the patience it gets. So many
            `networks` are measured and a table is fitted to them, at `batch_size` and `threads`.
        processor: what the remote device is called, such as ``Pixel 8, big cores``.
        target: for regularizer ``target``: such as ``12.5ms``, or a percentage of the way from the
            space's cheapest to its dearest network, such as ``40%``. One of ``MACs`` or ``params``,
            such as ``5.7Mparams``, is counted if there is no table.
        limits: what networks may cost at most beside, such as ``{parameters: 5.7M, macs: 300M,
            weight_bytes: 2MB, activation_bytes: 1MB, energy.yaml: 3mJ}``, the last by a table.
        reference: `ref` of ``add#linear`` and ``mul#log``; what the uniform network costs when
            absent.
    """

    MEASURING: ClassVar = (
        *("backend", "dtype", "blocks", "device"),
        *("batch_size", "threads", "warmup", "repetitions"),
    )

    REMOTE: ClassVar = ("processor", "remote", "networks")
    OF_DEVICE: ClassVar = ("table", *MEASURING, *REMOTE)

    table: Path | None = None
    processor: str | None = Field(None, min_length=1)
    remote: Remote | None = None
    networks: Annotated[int, Field(ge=FEWEST)] = 60
    backend: Annotated[str, Field(min_length=1)] = "onnxruntime"
    dtype: DtypeName = "float32"
    blocks: BlocksName = Field(
        default_factory=lambda fields: usual_blocks(fields["backend"], fields["dtype"])
    )
    device: DeviceName = "cpu"
    batch_size: Count = 1
    threads: Count = 1
    warmup: Annotated[int, Field(ge=0)] = 1
    repetitions: Count = Field(
        default_factory=lambda fields: (
            REMOTE_REPETITIONS
            if fields.get("remote") or fields.get("backend", BUILT_IN[0]) not in BUILT_IN
            else 100
        )
    )
    regularizer: Literal["target", "add#linear", "mul#log", "none"] = "target"
    target: str = Field("40%", coerce_numbers_to_str=True)
    limits: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = Field(
        default_factory=dict
    )
    tolerance: Positive = 0.05
    reference: Positive | None = None
    trade_off: float = 0.1
    mul_alpha: Positive = 0.2
    mul_beta: Positive = 0.3

    @model_validator(mode="after")
    def _check(self) -> LatencyConfig:
        self.check_target()
        self._check_remote()
        for name, most in self.limits.items():
            if name not in COUNTS and not Path(name).suffix:
                raise UserError(
                    f"'{name}' cannot be limited; limit {', '.join(COUNTS)}, or give the path of a "
                    "table, such as energy.yaml"
                )
            parse_amount(most, f"the limit of {name}")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether a command or a plug-in measures, and not a backend of this machine."""
        return self.remote is not None or self.backend not in BUILT_IN

    def _check_remote(self) -> None:
        if not self.is_remote:
            if self.processor is not None:
                raise UserError(
                    f"processor '{self.processor}' names a device elsewhere; say by which "
                    "remote.command or plug-in's backend it measures, or leave the name out"
                )
            return
        is_plugin = self.backend not in BUILT_IN
        if is_plugin and self.table is not None and self.remote is None:
            return  # What the table is to have been measured with.
        command = self.remote.command if self.remote else None
        if is_plugin and command is not None:
            raise UserError(
                f"backend '{self.backend}' and the command '{command}' each say what measures; "
                "leave out one of them"
            )
        if is_plugin and self.processor is None:
            raise UserError(
                f"backend '{self.backend}' is none of {', '.join(BUILT_IN)}; use one of these, or "
                "give the processor, which is the name of the device that a plug-in measures on"
            )
        if self.processor is None or (command is None and not is_plugin):
            raise UserError(
                "a device elsewhere needs both a remote.command, which measures an ONNX file, and "
                "a processor, which is its name; give both, or a table"
            )
        here = LatencyConfig.model_construct()
        of_here = ("table", "dtype", "blocks", "device", "warmup")
        unused = [name for name in of_here if getattr(self, name) != getattr(here, name)]
        if not is_plugin and self.backend != here.backend:
            unused.insert(0, "backend")
        if unused:
            what = f"backend '{self.backend}'" if is_plugin else f"the command '{command}'"
            raise UserError(f"{what} measures, which has no {', '.join(unused)}; leave out these")
        self.conditions()

    def conditions(self) -> Conditions:
        """How to measure: here and now."""
        if not self.is_remote:
            return Conditions(**{name: getattr(self, name) for name in self.MEASURING})
        told = ("processor", "batch_size", "threads", "repetitions")
        return Conditions(
            backend="command" if self.backend in BUILT_IN else self.backend,
            remote=self.remote or Remote(),
            **{name: getattr(self, name) for name in told},
        )

    def check_target(self) -> None:
        """Refuse a target that is no amount of anything.

        Raises:
            UserError: it is none.
        """
        _, unit = parse_amount(self.target, "target")
        if not split_unit(unit)[1]:
            raise UserError(f"target '{self.target}' has no unit; write for example 12.5ms or 40%")

    def target_of(self, costs: Costs) -> float:
        """The target, for networks of these costs.

        Raises:
            UserError: it is in another unit.
        """
        return amount_within(self.target, "target", costs.bounds, costs.unit)

    @property
    def counted(self) -> CountName | None:
        """What the target counts, where no table says what networks cost."""
        if self.table or self.regularizer != "target":
            return None
        _, unit = parse_amount(self.target, "target")
        counts: dict[str, CountName] = {"MACs": "macs", "params": "parameters"}
        return counts.get(split_unit(unit)[1])


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


class WarmupConfig(OptimizerConfig):
    """Training with paths drawn from the initial alphas, which stay fixed."""

    epochs: Annotated[int, Field(ge=0)] = 40
    lr: Positive = 0.05


class SearchConfig(OptimizerConfig):
    """The alternating search.

    Attributes:
        paths: of its weight steps: ``uniform``, all candidates being equally probable, as in the
            warm-up, or ``sampled`` from the alphas, as published.
    """

    epochs: Count = 120
    lr: Positive = 0.025
    paths: Literal["uniform", "sampled"] = "uniform"


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


class Aim(NamedTuple):
    """What one network of a run is searched for.

    Attributes:
        name: of the device and the target, such as ``phone-40%``; empty in a run for one network.
        device: its name; empty there, too.
        latency: of the device, with the target.
    """

    name: str
    device: str
    latency: LatencyConfig


class Config(StrictModel):
    """A whole run.

    Attributes:
        seed: of every random decision of the run.
        checkpoint_seconds: how much time a kill may cost.
        checkpoints_kept: while a phase runs, so that one before serves if the last is damaged; of
            phases that have ended the last is kept.
        plugins: Python files that register operations of one's own.
        latency: of a run for one network; what `devices` leave out about targets is that of it.
        devices: of a run for several networks, by their names, each in place of `latency`.
        targets: for every device, instead of its own.
        left_out: names of networks that are not searched, such as ``phone-10ms``; at a size where
            they are out of reach, they come here by themselves.
    """

    seed: int = Field(0, ge=0)
    plugins: tuple[Path, ...] = ()
    checkpoint_seconds: Positive = 60.0
    checkpoints_kept: Count = 2
    runtime: RuntimeConfig = RuntimeConfig()
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    latency: LatencyConfig = LatencyConfig()
    devices: dict[str, LatencyConfig] = Field(default_factory=dict)
    targets: tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...] = ()
    left_out: tuple[str, ...] = ()
    warmup: WarmupConfig = WarmupConfig()
    search: SearchConfig = SearchConfig()
    gates: GatesConfig = GatesConfig()
    derive: DeriveConfig = DeriveConfig()
    train: TrainConfig = TrainConfig()
    comparison: ComparisonConfig = ComparisonConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.targets and not self.devices:
            raise UserError(
                "targets are of devices, and there are none; give --device, or set latency.target"
            )
        for device, latency in self.devices.items():
            if not re.fullmatch(r"[\w+-][\w.+ -]*", device):
                raise UserError(
                    f"a device cannot be called '{device}'; use letters, digits, '_', '-' and '.'"
                )
            if latency.regularizer != "target":
                raise UserError(
                    f"device '{device}' has the regularizer '{latency.regularizer}', and networks "
                    "for several devices are searched with 'target'; leave it out"
                )
        names = [aim.name for aim in self.aims]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"'{min(twice)}' is asked for twice; leave out one of them")
        for aim in self.aims:
            aim.latency.check_target()
        known = [aim.name for aim in self.model_copy(update={"left_out": ()}).aims]
        if unknown := set(self.left_out) - set(known):
            raise UserError(
                f"left_out names '{min(unknown)}', which is none of {', '.join(known)}; remove it"
            )
        if len(names) > 1 and self.search.paths != "uniform":
            raise UserError(
                f"search.paths is '{self.search.paths}', so that weights depend on the target, and "
                f"{len(names)} networks cannot share them; set it to 'uniform'"
            )
        return self

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What is searched for: one network, or one for every device and target."""
        if not self.devices:
            return (Aim("", "", self.latency),)
        return tuple(
            Aim(name, device, latency.model_copy(update={"target": target}))
            for device, latency in self.devices.items()
            for target in self.targets or (latency.target,)
            if (name := network_name(device, target)) not in self.left_out
        )

    def anchored(self) -> Config:
        """The same with absolute paths, which mean the same wherever a run goes on."""
        tree = self.model_dump(mode="json")
        _move_paths(tree, Path.cwd())
        return Config.model_validate(tree)


def load_config(path: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration in a YAML file (the defaults without one), with single values overridden.

    Relative paths in the file start from its folder, those in `overrides` from the current one.

    Args:
        path: a YAML file, or None. Its key ``extends`` can name another, whose values hold where it
            says nothing.
        overrides: dotted keys such as ``search.epochs`` to values.

    Raises:
        UserError: naming the key that is unknown or does not fit, or a plugin cannot be imported.
    """
    tree = {} if path is None else _read_extended(path)
    for key, value in overrides.items():
        _set(tree, key, value)
    _fill_devices(tree)
    sources = ([str(path)] if path else []) + (["options"] if overrides else [])
    config = validate(Config, tree, " and ".join(sources) or "configuration")
    load_plugins(config.plugins)
    return config


def _read_extended(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, and the one that it extends.

    Args:
        path: of the file.
        below: those that extend it.
    """
    tree = read_mapping(path)
    base = tree.pop("extends", None)
    _move_paths(tree, path.parent)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"'extends' in {path} is {base!r}; let it name one file")
    chain = (*below, path.resolve())
    if (extended := path.parent / base).resolve() in chain:
        raise UserError(f"{path} extends {base}, which extends it; remove one 'extends'")
    return _merged(_read_extended(extended, chain), tree)


def _merged(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """A tree of settings with the values of another in place of its own."""
    merged = {**tree, **over}
    for key in tree.keys() & over.keys():
        if isinstance(tree[key], dict) and isinstance(over[key], dict):
            merged[key] = _merged(tree[key], over[key])
    return merged


def read_devices(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What `Config.devices` is given, from files that hold what the section ``latency`` does.

    Args:
        files: called as the devices are; relative paths in them start from their folders.

    Raises:
        UserError: a file cannot be read or does not fit, or two devices have one name.
    """
    devices: dict[str, dict[str, Any]] = {}
    for file in files:
        if file.stem in devices:
            raise UserError(f"two devices are called '{file.stem}'; rename one of their files")
        settings = read_mapping(file)
        _move_paths({"latency": settings}, file.absolute().parent)
        validate(LatencyConfig, settings, str(file))
        devices[file.stem] = settings
    return devices


def _fill_devices(tree: dict[str, Any]) -> None:
    """Let devices have what the section ``latency`` says about targets, where they say nothing."""
    general, devices = tree.get("latency"), tree.get("devices")
    if not isinstance(general, dict) or not isinstance(devices, dict):
        return
    shared = {name: value for name, value in general.items() if name not in LatencyConfig.OF_DEVICE}
    for name, settings in devices.items():
        if isinstance(settings, dict):
            devices[name] = {**shared, **settings}


_PATHS: dict[str, Callable[[str], bool]] = {
    "data.source": is_named_source,
    "data.root": lambda _: False,
    "space.name": lambda value: value in BUILTIN or not Path(value).suffix,
    "latency.table": lambda _: False,
}
"""Settings that hold a path, and whether a value is the name of something instead."""


def _move_paths(tree: dict[str, Any], folder: Path) -> None:
    """Let relative paths in a tree of settings start from `folder`."""

    def moved(value: str) -> str:
        path = os.path.join(folder, os.path.expanduser(value))
        # Not a relative one, from which "./digits" would come out as a name.
        return os.path.normpath(path) if os.path.isabs(path) else path

    def move(settings: Any, name: str, is_name: Callable[[str], bool]) -> None:
        value = settings.get(name) if isinstance(settings, dict) else None
        if isinstance(value, str) and not is_name(value):
            settings[name] = moved(value)

    def move_limits(settings: Any) -> None:
        limits = settings.get("limits") if isinstance(settings, dict) else None
        if isinstance(limits, dict):
            settings["limits"] = {
                name if name in COUNTS or not isinstance(name, str) else moved(name): most
                for name, most in limits.items()
            }

    for key, is_name in _PATHS.items():
        section, name = key.split(".")
        move(tree.get(section), name, is_name)
    move_limits(tree.get("latency"))
    if isinstance(devices := tree.get("devices"), dict):
        for settings in devices.values():
            move(settings, "table", _PATHS["latency.table"])
            move_limits(settings)
    if isinstance(plugins := tree.get("plugins"), list):
        tree["plugins"] = [moved(each) if isinstance(each, str) else each for each in plugins]


def parse_override(text: str) -> tuple[str, Any]:
    """``search.epochs=3`` as key and YAML value.

    Raises:
        UserError: there is no ``=``.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"'{text}' sets nothing; write KEY=VALUE such as search.epochs=3")
    return key, parse_document(value, f"the value in '{text}'")


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise UserError(f"'{key}' names no value: '{part}' has none below it")
    tree[last] = value
