"""A reader returns a result or raises a NetkitError, for any file. scripts/tools/fuzz.py searches longer."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netkit.core.errors import NetkitError
from tests.support.damage import damaged
from tests.support.readers import READERS


def read(name: str, content: bytes) -> None:
    try:
        READERS[name].read(content)
    except NetkitError as exc:
        assert str(exc)


@pytest.mark.parametrize("name", READERS)
def test_valid_examples_are_read(name: str) -> None:
    for example in READERS[name].examples:
        READERS[name].read(example)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_give_a_result_or_a_netkit_error(name: str, content: bytes) -> None:
    read(name, content)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), times=st.integers(1, 4))
def test_damaged_examples_give_a_result_or_a_netkit_error(name: str, seed: int, times: int) -> None:
    rng = Random(seed)
    content = rng.choice(READERS[name].examples)
    for _ in range(times):
        content = damaged(content, rng) or b"\0"
    read(name, content)
