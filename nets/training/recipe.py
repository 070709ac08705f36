"""Recipe: what a training run does, as plain values. Standard library only."""

from dataclasses import asdict, dataclass, replace

from nets.errors import UsageError, unknown_name

LEAST_STEPS = 500  # all four nets reach 98.8 % or more on the bundled digits in them


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum on the cross entropy. `schedule` is "constant", or "onecycle" (Smith 2018, arXiv:1803.09820).

    `lr` is the learning rate, for "onecycle" its peak; `largest_gradient` is the norm that gradients are scaled down
    to, 0 for no limit; `channels_last` is the memory layout; `precision` is "fp32", "bf16", or "auto": bf16 where the
    hardware has it, else fp32.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    schedule: str
    largest_gradient: float
    weight_decay: float
    label_smoothing: float
    channels_last: bool
    precision: str

    def stretched_to(self, images: int) -> "Recipe":
        """The same, with epochs enough for LEAST_STEPS on so many images: 4 epochs of a small data set teach little."""
        steps_an_epoch = -(-images // self.batch_size)
        return replace(self, epochs=max(self.epochs, -(-LEAST_STEPS // steps_an_epoch)))

    def __str__(self) -> str:
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asdict(self).items())

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(f"epochs and batch size are at least 1, not {self.epochs} and {self.batch_size}")
        if not 0 < self.lr < float("inf"):
            raise UsageError(f"the learning rate is a positive number, not {self.lr}")


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(  # what the textbook does
            name="seed",
            epochs=10,
            batch_size=64,
            lr=0.01,
            momentum=0.5,
            schedule="constant",
            largest_gradient=0.0,
            weight_decay=0.0,
            label_smoothing=0.0,
            channels_last=False,
            precision="fp32",
        ),
        Recipe(
            name="fast",
            epochs=4,
            batch_size=128,
            lr=0.05,
            momentum=0.9,
            schedule="onecycle",
            largest_gradient=1.0,  # without it inception diverged on the digits at a peak of 0.1
            weight_decay=5e-4,
            label_smoothing=0.05,
            channels_last=True,
            precision="auto",
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """The recipe called `name`; UsageError, with the closest known name, where there is none."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]
