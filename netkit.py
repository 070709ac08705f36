"""netkit."""


def cli() -> None: ...
