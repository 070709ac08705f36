"""Names of architectures: netkit's own, torchvision/NAME, and MODULE:CLASS. Standard library only."""

TORCHVISION = "torchvision/"  # what the names of its classifiers begin with here


def is_foreign(name: str) -> bool:
    """Whether `name` is none of netkit's own: torchvision/NAME, or MODULE:CLASS, code of the user's."""
    return name.startswith(TORCHVISION) or is_users(name)


def is_users(name: str) -> bool:
    """Whether `name` stands for code outside netkit and torchvision, which is run when such a net is built."""
    return ":" in name


def only_channels(name: str) -> int | None:
    """Of how many channels images must be for such a net; None where it takes any number."""
    return 3 if name.startswith(TORCHVISION) else None
