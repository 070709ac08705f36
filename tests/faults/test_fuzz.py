"""Whatever stands in a file, its reader gives an answer or an error for people. scripts/tools/fuzz.py takes longer."""

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
    except NetkitError as fault:
        assert str(fault)


@pytest.mark.parametrize("name", READERS)
def test_sound_examples_are_read(name: str) -> None:
    for example in READERS[name].examples:
        READERS[name].read(example)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_any_bytes_end_in_an_answer_or_an_error(name: str, content: bytes) -> None:
    read(name, content)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), times=st.integers(1, 4))
def test_damaged_examples_end_in_an_answer_or_an_error(name: str, seed: int, times: int) -> None:
    chance = Random(seed)
    content = chance.choice(READERS[name].examples)
    for _ in range(times):
        content = damaged(content, chance) or b"\0"
    read(name, content)
