"""run.json: how a run's data set is found again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netkit.core.errors import DataError, ModelError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.training import record


@pytest.fixture
def digits_card(card: ModelCard, digits_data: ArrayDataSet) -> ModelCard:
    return replace(card, origin=replace(card.origin, data_sha256=digits_data.sha256))


def test_data_is_found_by_what_run_json_says(tmp_path: Path, digits_card: ModelCard, digits_data: ArrayDataSet) -> None:
    record.write(tmp_path, {"data": "digits"})
    assert np.array_equal(record.data_of(tmp_path, digits_card).test_images[:], digits_data.test_images)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: "),
        ("", "cannot be read: "),
        ("[" * 200_000, "cannot be read: "),
        ("[]", "holds no JSON object"),
        ("null", "holds no JSON object"),
        ("{}", "does not say where the data is; use --data"),
        ('{"data": null}', "does not say where the data is; use --data"),
    ],
)
def test_a_run_that_does_not_say_where_its_data_is_is_named_and_data_fixes_it(
    tmp_path: Path, digits_card: ModelCard, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ModelError, match=rf"run\.json: {says}"):
        record.data_of(tmp_path, digits_card)
    assert record.data_of(tmp_path, digits_card, source="digits").name == "digits"


def test_data_that_moved_is_told_with_who_says_where_it_was(tmp_path: Path, digits_card: ModelCard) -> None:
    record.write(tmp_path, {"data": str(tmp_path / "gone")})
    with pytest.raises(
        DataError, match=r"gone: no such folder.* \(so says .*run\.json; if the data moved, use --data\)"
    ):
        record.data_of(tmp_path, digits_card)


def test_another_data_set_than_the_cards_is_refused(tmp_path: Path, card: ModelCard) -> None:
    record.write(tmp_path, {"data": "digits"})
    with pytest.raises(DataError, match="digits: not the data set that the run was trained on"):
        record.data_of(tmp_path, card)
