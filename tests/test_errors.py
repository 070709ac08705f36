"""The tree of errors: one root, the exit codes that its drawing promises, and messages that help."""

import re

import pytest

from nets import errors
from nets.errors import ImageError, MissingExtraError, NetkitError, UsageError, unknown_name

CLASSES = {each.__name__: each for each in vars(errors).values() if isinstance(each, type)}


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = re.findall(r"^([│├└─ ]*)(\w+) +(\d)  \S", errors.__doc__ or "", re.MULTILINE)
    parents: dict[int, str] = {}
    for branch, name, code in drawn:
        depth = len(branch) // 4
        assert CLASSES[name].exit_code == int(code), name
        assert CLASSES[name].__base__ is (CLASSES[parents[depth - 1]] if depth else Exception), name
        parents[depth] = name
    assert {name for _, name, _ in drawn} == set(CLASSES)


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("mnits", "unknown data set 'mnits': did you mean 'mnist'? known: mnist, digits"),
        ("DIGITS", "unknown data set 'DIGITS': did you mean 'digits'? known: mnist, digits"),
        ("", "unknown data set '': known: mnist, digits"),
        ("imagenet-21k", "unknown data set 'imagenet-21k': known: mnist, digits"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest_known_one(typed: str, answer: str) -> None:
    fault = unknown_name("data set", typed, iter(["mnist", "digits"]))
    assert type(fault) is UsageError
    assert str(fault) == answer


def test_a_missing_package_is_answered_with_the_command_that_installs_it() -> None:
    fault = MissingExtraError("torch", "train")
    assert str(fault) == (
        "this needs torch, which netkit's extra [train] installs: in a checkout of netkit, run: pip install '.[train]'"
    )


def test_an_image_error_has_a_code_for_programs_and_a_message_for_people() -> None:
    with pytest.raises(NetkitError, match=r"^a\.png: not an image$") as caught:
        raise ImageError("unreadable", "a.png: not an image")
    assert isinstance(caught.value, ImageError)
    assert caught.value.code == "unreadable"
