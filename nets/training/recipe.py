"""Recipe: the hyperparameters of a training run. Standard library only."""

from dataclasses import asdict, dataclass, replace
from itertools import accumulate, count
from typing import Any

from netkit.core.errors import UsageError, unknown_name

MIN_STEPS = 500  # enough for all four networks to reach 98.8 % or more on the bundled digits
MAX_LR = 1e6
MAX_EPOCHS = 100_000  # EpochSchedule lists them all
SCHEDULES = ("constant", "onecycle")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of SGD on the cross entropy, and of what surrounds it.

    Args:
        epochs: passes over the training images; with 2.5 the third and last epoch ends after half of its images.
        lr: learning rate; with the schedule "onecycle" (Smith 2018, arXiv:1803.09820) its peak.
        muon: if above 0, Muon moves the kernels of convolutions, at this multiple of the learning rate.
        schedule: "constant" or "onecycle"; the latter rises linearly to `lr` and falls linearly to 0.
        pct_start: fraction of all steps until the peak of "onecycle".
        max_grad_norm: gradients are scaled down to this norm; 0 for no limit.
        translate: images are moved by up to this many pixels in each direction, anew in each epoch; also
        degrees: rotated by up to this angle;
        scale: resized by up to this fraction (0.1: from 0.9 to 1.1);
        shear: sheared horizontally by up to this factor (0.1: 1 pixel sideways in 10 rows).
        drop_fraction: fraction of the images that an epoch leaves out: those with the lowest losses when they were
            last learnt from (selective backprop, after Jiang et al. 2019, arXiv:1910.00762).
        full_epochs: number of epochs before the first one that leaves images out.
        ema: decay per step of an exponential moving average of the weights, which is what is saved; 0 for none.
        channels_last: memory layout of the convolutions.
        precision: "fp32", "bf16", "fp16", or "auto": bf16 if the hardware has it, else fp32.

    Raises:
        UsageError: a value is out of range.
    """

    name: str
    epochs: float
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    muon: float
    schedule: str
    pct_start: float
    max_grad_norm: float
    weight_decay: float
    label_smoothing: float
    translate: float
    degrees: float
    scale: float
    shear: float
    drop_fraction: float
    full_epochs: int
    ema: float
    channels_last: bool
    precision: str

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= MAX_EPOCHS:
            raise UsageError(f"epochs are a number above 0 and up to {MAX_EPOCHS:,}, not {self.epochs}")
        if self.batch_size < 1:
            raise UsageError(f"the batch size is at least 1, not {self.batch_size}")
        if not 0 < self.lr <= MAX_LR:
            raise UsageError(f"the learning rate is a positive number up to {MAX_LR:,.0f}, not {self.lr}")
        for field in ("momentum", "ema", "label_smoothing", "pct_start", "scale", "drop_fraction"):
            if not 0 <= getattr(self, field) < 1:
                raise UsageError(f"{field} must be at least 0 and below 1, not {getattr(self, field)}")
        if self.drop_fraction and self.full_epochs < 1:
            raise UsageError("drop_fraction needs full_epochs of 1 or more, which measure the losses of all images")
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of `step`, counted from 0, out of `steps`."""
        if self.schedule == "constant":
            return self.lr
        peak = self.pct_start * steps
        return self.lr * min((step + 1) / (peak + 1), (steps - step) / (steps - peak))

    def candidates_in(self, epoch: int, images: int) -> int:
        """How many of `images` training images the epoch, counted from 1, can learn from: all, or the hardest ones."""
        return images if epoch <= self.full_epochs else images - int(images * self.drop_fraction)

    def images_in(self, epoch: int, images: int) -> int:
        """How many of `images` training images the epoch learns from: its candidates, or a part of them in the last."""
        return max(1, round(self.candidates_in(epoch, images) * min(1.0, self.epochs - (epoch - 1))))

    def stretched_to(self, images: int) -> "Recipe":
        """This recipe with as many epochs as MIN_STEPS need on `images` training images, for small data sets."""
        ends = accumulate(-(-self.candidates_in(epoch, images) // self.batch_size) for epoch in count(1))
        enough = next(epoch for epoch, steps in enumerate(ends, start=1) if steps >= MIN_STEPS)
        return replace(self, epochs=max(self.epochs, enough))

    def __str__(self) -> str:
        """The name, and the fields that are not off, for people."""
        fields = {name.replace("_", " "): value for name, value in asdict(self).items() if name != "name" and value}
        return f"{self.name}: " + ", ".join(f"{n}" if v is True else f"{n} {_short(v)}" for n, v in fields.items())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(  # plain SGD, as in textbooks
            name="baseline",
            epochs=10,
            batch_size=64,
            lr=0.01,
            momentum=0.5,
            nesterov=False,
            muon=0.0,
            schedule="constant",
            pct_start=0.0,
            max_grad_norm=0.0,
            weight_decay=0.0,
            label_smoothing=0.0,
            translate=0.0,
            degrees=0.0,
            scale=0.0,
            shear=0.0,
            drop_fraction=0.0,
            full_epochs=0,
            ema=0.0,
            channels_last=False,
            precision="fp32",
        ),
        Recipe(
            name="fast",
            epochs=8,
            batch_size=128,
            lr=0.1,
            momentum=0.9,
            nesterov=True,
            muon=0.1,
            schedule="onecycle",
            pct_start=0.25,
            max_grad_norm=1.0,  # without it inception diverges on the digits at a peak of 0.1
            weight_decay=5e-4,
            label_smoothing=0.05,
            translate=2.0,
            degrees=10.0,
            scale=0.1,
            shear=0.1,
            drop_fraction=0.5,
            full_epochs=2,
            ema=0.0,
            channels_last=True,
            precision="auto",
        ),
    )
}
ALIASES = {"seed": "baseline"}  # other names that are accepted

# How "fast" differs between networks. Those without global average pooling get smaller translations. preact and
# densenet leave out more images, so that two cores train all networks in less than a third of the time of the
# baseline. Chosen on images held back from the training set, except for drop_fraction.
ADJUSTMENTS: dict[str, dict[str, Any]] = {
    "inception": {"translate": 1.0},
    "residual": {"translate": 1.0},
    "preact": {"drop_fraction": 0.55},
    "densenet": {"drop_fraction": 0.55},
}


def recipe_named(name: str, *, arch: str | None = None) -> Recipe:
    """The recipe called `name`, adjusted to `arch` if given; UsageError, with the closest name, if there is none."""
    name = ALIASES.get(name, name)
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    recipe = RECIPES[name]
    return replace(recipe, **ADJUSTMENTS.get(arch or "", {})) if name == "fast" else recipe
