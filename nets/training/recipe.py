"""Recipe: what a training run does, as plain values. Standard library only."""

from dataclasses import asdict, dataclass, replace
from itertools import accumulate, count
from typing import Any

from netkit.core.errors import UsageError, unknown_name

LEAST_STEPS = 500  # all four nets reach 98.8 % or more on the bundled digits in them
LARGEST_LR = 1e6
LARGEST_EPOCHS = 100_000  # the timetable lists them
SCHEDULES = ("constant", "onecycle")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov's or plain momentum on the cross entropy.

    `lr` is the learning rate; with the schedule "onecycle" (Smith 2018, arXiv:1803.09820) its peak, which it reaches
    after the share `warmup` of all steps, and leaves in a straight line to 0. With `muon` above 0 convolutions' kernels
    move by Muon instead, at that multiple of the learning rate. `largest_gradient` is the norm that gradients are
    scaled down to, 0 for no limit.

    Each image is moved by up to `shift` pixels, turned by up to `rotation` degrees, scaled by up to `scale` (0.1: from
    0.9 to 1.1) and sheared by up to `shear` (0.1: upright lines lean by a tenth), anew in each epoch. After the first
    two epochs each leaves out the share `skip_easiest` of the images: those whose losses were lowest when they were
    last learnt from (after Jiang et al. 2019, arXiv:1910.00762).

    With `epochs` of 2.5 the third and last epoch is over when it has learnt from half of its images.

    With `ema` above 0 the weights that count are an exponential moving average with that decay a step. `channels_last`
    is the memory layout; `precision` is "fp32", "bf16", "fp16", or "auto": bf16 where hardware has it, else fp32.
    """

    name: str
    epochs: float
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    muon: float
    schedule: str
    warmup: float
    largest_gradient: float
    weight_decay: float
    label_smoothing: float
    shift: float
    rotation: float
    scale: float
    shear: float
    skip_easiest: float
    whole_epochs: int
    ema: float
    channels_last: bool
    precision: str

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= LARGEST_EPOCHS:
            raise UsageError(f"epochs are a number above 0 and up to {LARGEST_EPOCHS:,}, not {self.epochs}")
        if self.batch_size < 1:
            raise UsageError(f"the batch size is at least 1, not {self.batch_size}")
        if not 0 < self.lr <= LARGEST_LR:
            raise UsageError(f"the learning rate is a positive number up to {LARGEST_LR:,.0f}, not {self.lr}")
        for field in ("momentum", "ema", "label_smoothing", "warmup", "scale", "skip_easiest"):
            if not 0 <= getattr(self, field) < 1:
                raise UsageError(f"{field.replace('_', ' ')} lies from 0 to below 1, not at {getattr(self, field)}")
        if self.skip_easiest and self.whole_epochs < 1:
            raise UsageError("at least one whole epoch comes before the easiest images are known")
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of that step, counted from 0, of so many."""
        if self.schedule == "constant":
            return self.lr
        peak = self.warmup * steps
        return self.lr * min((step + 1) / (peak + 1), (steps - step) / (steps - peak))

    def choice_in(self, epoch: int, images: int) -> int:
        """From how many of so many training images, the hardest, that epoch, from 1 on, takes its own."""
        return images if epoch <= self.whole_epochs else images - int(images * self.skip_easiest)

    def images_in(self, epoch: int, images: int) -> int:
        """From how many of so many training images that epoch learns: its whole choice, or of a last one a part."""
        return max(1, round(self.choice_in(epoch, images) * min(1.0, self.epochs - (epoch - 1))))

    def stretched_to(self, images: int) -> "Recipe":
        """The same, with epochs enough for LEAST_STEPS on so many images: few epochs of little data teach little."""
        ends = accumulate(-(-self.choice_in(epoch, images) // self.batch_size) for epoch in count(1))
        enough = next(epoch for epoch, steps in enumerate(ends, start=1) if steps >= LEAST_STEPS)
        return replace(self, epochs=max(self.epochs, enough))

    def __str__(self) -> str:
        """For people: the name, and what is not off."""
        fields = {name.replace("_", " "): value for name, value in asdict(self).items() if name != "name" and value}
        return f"{self.name}: " + ", ".join(f"{n}" if v is True else f"{n} {_short(v)}" for n, v in fields.items())


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(  # what the textbook does
            name="seed",
            epochs=10,
            batch_size=64,
            lr=0.01,
            momentum=0.5,
            nesterov=False,
            muon=0.0,
            schedule="constant",
            warmup=0.0,
            largest_gradient=0.0,
            weight_decay=0.0,
            label_smoothing=0.0,
            shift=0.0,
            rotation=0.0,
            scale=0.0,
            shear=0.0,
            skip_easiest=0.0,
            whole_epochs=0,
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
            warmup=0.25,
            largest_gradient=1.0,  # without it inception diverged on the digits at a peak of 0.1
            weight_decay=5e-4,
            label_smoothing=0.05,
            shift=2.0,
            rotation=10.0,
            scale=0.1,
            shear=0.1,
            skip_easiest=0.5,
            whole_epochs=2,
            ema=0.0,
            channels_last=True,
            precision="auto",
        ),
    )
}


# What of "fast" is another for a net. Those that end without a pool over all places take less shift. Its epochs are as
# many as two cores do in less than a third of the time of the textbook's ten, for which preact and densenet leave out
# more images. Chosen on images held back from the training set, but for that share.
ADJUSTMENTS: dict[str, dict[str, Any]] = {
    "inception": {"shift": 1.0},
    "residual": {"shift": 1.0},
    "preact": {"skip_easiest": 0.55},
    "densenet": {"skip_easiest": 0.55},
}


def recipe_named(name: str, *, arch: str | None = None) -> Recipe:
    """The recipe called `name`, for `arch` if it is given; UsageError, with the closest name, where there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    recipe = RECIPES[name]
    return replace(recipe, **ADJUSTMENTS.get(arch or "", {})) if name == "fast" else recipe
