"""Parquet files of rows and paths are read as they were written, and damage is reported."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from netkit.core.errors import UsageError
from netkit.infer.output import parquet
from netkit.infer.output.prediction import Row
from netkit.infer.pipeline.inputs import find_inputs


def test_the_column_path_of_a_parquet_file_gives_the_inputs(tmp_path: Path) -> None:
    listed = [f"images/{number}.png" for number in range(20)]
    pq.write_table(pa.table({"path": listed, "number": range(20)}), tmp_path / "listed.parquet")
    assert list(find_inputs([str(tmp_path / "listed.parquet")])) == listed
    crafted = pa.table({"path": [r"\x41.png"]}).replace_schema_metadata({parquet.ESCAPED: "yes"})
    pq.write_table(crafted, tmp_path / "crafted.parquet")
    assert list(find_inputs([str(tmp_path / "crafted.parquet")])) == [r"\x41.png"]  # only \x80 to \xff are escapes
    pq.write_table(pa.table({"number": range(20)}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"other\.parquet: has no text column 'path', only number"):
        find_inputs([str(tmp_path / "other.parquet")])
    names = pa.array(["b.png", None, "", "b.png"]).dictionary_encode()
    pq.write_table(pa.table({"path": names}), tmp_path / "gaps.parquet")
    assert list(find_inputs([str(tmp_path / "gaps.parquet")])) == ["b.png", "", "", "b.png"]
    (tmp_path / "no.parquet").write_bytes(b"none")
    with pytest.raises(UsageError, match=r"no\.parquet: cannot be read as Parquet"):
        find_inputs([str(tmp_path / "no.parquet")])


def test_the_paths_of_a_results_file_are_read_unchanged(tmp_path: Path) -> None:
    paths = [r"a\b.png", r"\x41.png", os.fsdecode(b"\xff\\.png"), "é.png"]
    parquet.write(tmp_path / "r.parquet", (Row(path, status="not-found").cells(1) for path in paths), top_k=1)
    assert list(find_inputs([str(tmp_path / "r.parquet")])) == paths


def test_reading_a_damaged_file_raises_only_usage_errors(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    parquet.write(path, (Row(f"{number}.png").cells(1) for number in range(50)), top_k=1, metadata={"a": "b"})
    written = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(written)
        content[rng.integers(len(written))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        parquet.metadata(path)
        with suppress(UsageError):
            list(find_inputs([str(path)]))
