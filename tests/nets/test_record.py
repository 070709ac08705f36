"""run.json: loading the data set of a run again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netkit.core.errors import DataError, ModelError, UsageError
from netkit.core.model_card import ModelCard
from netkit.data.dataset import ArrayDataSet
from netkit.nets.training import record


@pytest.fixture
def digits_card(card: ModelCard, digits_data: ArrayDataSet) -> ModelCard:
    return replace(card, origin=replace(card.origin, data_sha256=digits_data.sha256))


def test_data_set_named_in_run_json_is_loaded(
    tmp_path: Path, digits_card: ModelCard, digits_data: ArrayDataSet
) -> None:
    record.write(tmp_path, {"data": "digits"})
    assert np.array_equal(record.data_of(tmp_path, digits_card).test_images[:], digits_data.test_images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is damaged: not JSON"),
        ("[" * 200_000, "is damaged: not JSON"),
        ("[]", "is damaged: not a JSON object"),
        ("null", "is damaged: not a JSON object"),
        ("{}", "contains no path of the data set; pass it with --data"),
        ('{"data": null}', "contains no path of the data set; pass it with --data"),
    ],
)
def test_error_names_a_run_json_without_a_data_path_and_a_source_replaces_the_path(
    tmp_path: Path, digits_card: ModelCard, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ModelError, match=rf"run\.json: {message}"):
        record.data_of(tmp_path, digits_card)
    assert record.data_of(tmp_path, digits_card, source="digits").name == "digits"


def test_error_for_moved_data_names_run_json(tmp_path: Path, digits_card: ModelCard) -> None:
    record.write(tmp_path, {"data": str(tmp_path / "moved")})
    with pytest.raises(
        UsageError, match=r"moved: no such folder.* \(path from .*run\.json; if the data moved, pass --data\)"
    ):
        record.data_of(tmp_path, digits_card)


def test_data_set_that_differs_from_the_cards_is_rejected(tmp_path: Path, card: ModelCard) -> None:
    record.write(tmp_path, {"data": "digits"})
    with pytest.raises(
        DataError,
        match=r"digits: is not the data set that this run was trained on, digits: .*; pass that data set with",
    ):
        record.data_of(tmp_path, card)


def test_the_message_about_an_option_that_was_not_set_tells_to_omit_it(tmp_path: Path) -> None:
    old, new = ({"seed": 0, "recipe": {"name": "fast", "patience": patience}} for patience in (0, 3))
    with pytest.raises(UsageError, match=r"no --patience, but this command has --patience 3 .* with no --patience, or"):
        record.check_resumable(tmp_path, new, old)
