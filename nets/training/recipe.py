"""Recipe: what a training run does, as plain values. Standard library only."""

from dataclasses import asdict, dataclass

from nets.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum on the cross entropy. `schedule` is "constant", or "onecycle" (Smith 2018, arXiv:1803.09820).

    `lr` is the learning rate, for "onecycle" its peak; `channels_last` is the memory layout; `precision` is "fp32",
    "bf16", or "auto": bf16 where the hardware has it, else fp32.
    """

    name: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    schedule: str
    weight_decay: float
    label_smoothing: float
    channels_last: bool
    precision: str

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
            weight_decay=0.0,
            label_smoothing=0.0,
            channels_last=False,
            precision="fp32",
        ),
        Recipe(
            name="fast",
            epochs=4,
            batch_size=128,
            lr=0.1,
            momentum=0.9,
            schedule="onecycle",
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
