"""Recipes: the hyperparameters of a training run. Imports the standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from netkit.core.errors import UsageError, unknown_name

MAX_LR = 1e6
MAX_EPOCHS = 100_000  # EpochSchedule keeps a list of all epochs
SCHEDULES = ("constant", "onecycle")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of training with SGD on the cross entropy.

    Args:
        epochs: passes over the training images; with 2.5 the third and last epoch ends after half of its images.
        lr: learning rate; the peak learning rate if the schedule is "onecycle".
        muon: if above 0, Muon updates the kernels of convolutions, with this multiple of the learning rate.
        schedule: "constant", or "onecycle" (Smith 2018, arXiv:1803.09820): a linear rise to `lr`, a linear fall to 0.
        pct_start: fraction of all steps before the peak of "onecycle".
        max_grad_norm: upper bound of the gradient norm; 0 for none.
        translate: maximum random translation of an image in each direction, in pixels.
        degrees: maximum random rotation.
        scale: maximum random change of the image size (0.1: from 0.9 to 1.1).
        shear: maximum random horizontal shear (0.1: 1 pixel per 10 rows).
        crop: largest share of an image's area that a random crop removes; crops are scaled to the image's size.
        flip: mirror half of the images horizontally.
        jitter: maximum random change of brightness, contrast and saturation (0.3: factors from 0.7 to 1.3).
        drop_fraction: fraction of the images that an epoch skips: those with the lowest losses when they were last
            trained on (selective backprop, after Jiang et al. 2019, arXiv:1910.00762).
        full_epochs: number of epochs at the start that skip no images.
        ema: decay per step of an exponential moving average of the weights, which is evaluated and saved; 0 for none.
        channels_last: use torch's channels_last memory format.
        precision: "fp32", "bf16", "fp16", or "auto": bf16 if the hardware supports it, else fp32.
        balanced: weigh the loss of each image inversely to the frequency of its class, with a mean weight of 1.
        freeze: train the last layer only.
        patience: number of epochs without a better validation accuracy after which the training ends; 0 for no limit.

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
    crop: float = 0.0
    flip: bool = False
    jitter: float = 0.0
    balanced: bool = False
    freeze: bool = False
    patience: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= MAX_EPOCHS:
            raise UsageError(f"--epochs {self.epochs:g}: must be above 0 and at most {MAX_EPOCHS:,}")
        if self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: must be at least 1")
        if not 0 < self.lr <= MAX_LR:
            raise UsageError(f"--lr {self.lr:g}: must be above 0 and at most {MAX_LR:,.0f}")
        for field in ("momentum", "ema", "label_smoothing", "pct_start", "scale", "crop", "jitter", "drop_fraction"):
            if not 0 <= getattr(self, field) < 1:
                name = "--ema" if field == "ema" else field  # the others have no option
                raise UsageError(f"{name} {getattr(self, field):g}: must be at least 0 and below 1")
        if self.patience < 0:
            raise UsageError(f"--patience {self.patience}: must be at least 0")
        if self.drop_fraction and self.full_epochs < 1:
            raise UsageError("drop_fraction requires full_epochs of at least 1, so that every image has a loss")
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def lr_at(self, step: int, steps: int) -> float:
        """Return the learning rate of `step`, counted from 0, of a training run with `steps` steps."""
        if self.schedule == "constant":
            return self.lr
        peak = self.pct_start * steps
        return self.lr * min((step + 1) / (peak + 1), (steps - step) / (steps - peak))

    def candidates_in(self, epoch: int, images: int) -> int:
        """Return the number of images that the epoch, counted from 1, does not skip, of `images` training images.

        No epoch has a single image, on which batch norm cannot train, unless there is only one.
        """
        return images if epoch <= self.full_epochs else max(min(2, images), images - int(images * self.drop_fraction))

    def images_in(self, epoch: int, images: int) -> int:
        """Return the number of images that the epoch trains on: its candidates, or a part of them in the last epoch."""
        return max(min(2, images), round(self.candidates_in(epoch, images) * min(1.0, self.epochs - (epoch - 1))))

    def with_augmentation(self, level: str) -> "Recipe":
        """Return this recipe with an augmentation of AUGMENTATIONS. Raises UsageError if the level is unknown."""
        if level not in AUGMENTATIONS:
            raise unknown_name("augmentation", level, AUGMENTATIONS)
        if level == "digits" and self.translate:
            return self  # its own amounts
        return replace(self, **{**AUGMENTATIONS["none"], **AUGMENTATIONS[level]})

    def summary(self) -> str:
        """Return the values that options of `netkit train` set, as text for log messages."""
        values = {"epochs": self.epochs, "batch size": self.batch_size, "learning rate": self.lr, "EMA": self.ema}
        texts = [*(f"{name} {value:g}" for name, value in values.items() if value), self.precision]
        return f"{', '.join(texts)}, augmentation {augmentation(asdict(self))} (recipe {self.name})"

    def __str__(self) -> str:
        """Return the name and all fields that are not 0 or False, as text for TensorBoard."""
        fields = {name.replace("_", " "): value for name, value in asdict(self).items() if name != "name" and value}
        return f"{self.name}: " + ", ".join(f"{n}" if v is True else f"{n} {_format(v)}" for n, v in fields.items())


def _format(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(  # plain SGD with momentum
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
            max_grad_norm=1.0,  # without it, inception diverges on the digits at a peak learning rate of 0.1
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
ALIASES = {"seed": "baseline"}

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {"translate": 0.0, "degrees": 0.0, "scale": 0.0, "shear": 0.0, "crop": 0.0, "flip": False, "jitter": 0.0},
    "digits": {"translate": 1.0, "degrees": 10.0, "scale": 0.1, "shear": 0.1},
    "photos": {"crop": 0.65, "flip": True, "jitter": 0.3},
}


def augmentation(recipe: Mapping[str, Any]) -> str:
    """Return the level of AUGMENTATIONS that the fields of a recipe have."""
    return "photos" if recipe.get("crop") else "digits" if recipe.get("translate") else "none"


# Differences of "fast" between networks. Networks without global average pooling get smaller translations. preact and
# densenet skip more images, so that on two cores every network trains in less than a third of the baseline's time.
# The translations were chosen on images held out from the training set; drop_fraction was not.
ADJUSTMENTS: dict[str, dict[str, Any]] = {
    "inception": {"translate": 1.0},
    "residual": {"translate": 1.0},
    "preact": {"drop_fraction": 0.55},
    "densenet": {"drop_fraction": 0.55},
}


def recipe_named(name: str, *, arch: str | None = None) -> Recipe:
    """Return the recipe `name`, adjusted to `arch` if given. Raises UsageError, with the closest name, if unknown."""
    name = ALIASES.get(name, name)
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    recipe = RECIPES[name]
    return replace(recipe, **ADJUSTMENTS.get(arch or "", {})) if name == "fast" else recipe
