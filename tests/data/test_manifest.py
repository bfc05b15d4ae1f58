from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from selftrain.data.manifest import KINDS, SCHEMA, ManifestWriter, read_metadata, read_rows
from selftrain.errors import InputError


def row(number: int) -> dict[str, Any]:
    return {
        "name": f"drive/{number}",
        "image_digest": f"{number:032x}",
        "shard": "shard-00000.zip",
        **{f"{kind}_{what}": number for kind in KINDS for what in ("offset", "length")},
        "height": 4,
        "width": 6,
        "class_pixels": [number, 24 - number],
        "confidence_histogram": [number] * 5,
        "centroids": [0, 1, 2] * (number % 3),
        "agreement": number / 7,
        "agreed_pixels": [],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    writer = ManifestWriter()
    for number in range(3):
        writer.append(row(number))
    file = tmp_path / "rows.parquet"
    file.write_bytes(writer.finish(shard_digest="abc"))
    return file


def test_rows_and_facts_come_back_as_they_were(path: Path) -> None:
    found = read_rows(path)
    assert found.schema == SCHEMA
    assert found.to_pylist() == [row(number) for number in range(3)]
    assert read_metadata(path)["shard_digest"] == "abc"


def test_many_rows_are_one_column_each(tmp_path: Path) -> None:
    """Rows are compressed some at a time; what reads them sees nothing of it."""
    writer = ManifestWriter()
    for number in range(600):
        writer.append(row(number))
    (tmp_path / "rows.parquet").write_bytes(writer.finish())
    found = read_rows(tmp_path / "rows.parquet")
    assert found.to_pylist() == [row(number) for number in range(600)]
    assert {column.num_chunks for column in found.columns} == {1}


def test_tables_are_joined_in_their_order(path: Path) -> None:
    writer = ManifestWriter()
    writer.append(row(9))
    writer.extend(read_rows(path))
    path.write_bytes(writer.finish())
    assert read_rows(path)["name"].to_pylist() == ["drive/9", "drive/0", "drive/1", "drive/2"]
    assert "shard_digest" not in read_metadata(path)


def test_no_rows_are_a_file_too(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(ManifestWriter().finish())
    found = read_rows(tmp_path / "rows.parquet")
    assert found.num_rows == 0
    assert {column.num_chunks for column in found.columns} == {1}


def test_other_tools_may_write_the_same_values_under_other_types(path: Path) -> None:
    before = read_rows(path)
    pd.read_parquet(path, dtype_backend="pyarrow").to_parquet(path)
    assert read_rows(path).equals(before)


@pytest.mark.parametrize("data", [None, b"", b"PAR1", b"no Parquet at all"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "rows.parquet"
    if data is not None:
        path.write_bytes(data)
    for read in (read_rows, read_metadata):
        with pytest.raises(InputError, match=r"rows\.parquet cannot be read as Parquet: make"):
            read(path)


def test_a_damaged_value_is_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(SCHEMA.get_field_index("agreement"))
    data[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"rows\.parquet cannot be read as Parquet: make"):
        read_rows(path)


def test_a_missing_column_is_named(path: Path) -> None:
    pd.read_parquet(path).drop(columns="centroids").to_parquet(path)
    with pytest.raises(
        InputError, match=r"rows\.parquet has no column centroids: delete the folder"
    ):
        read_rows(path)


@pytest.mark.parametrize("values", [[None, 1, 2], [[1], None, [2]], [[1], [None, 2], [3]]])
def test_gaps_are_named(path: Path, values: list[Any]) -> None:
    column = "class_pixels" if isinstance(values[0], list) else "label_offset"
    rows = pd.read_parquet(path, dtype_backend="pyarrow")
    rows[column] = pd.Series(values)
    rows.to_parquet(path)
    with pytest.raises(InputError, match=rf"gaps in the column {column}"):
        read_rows(path)


def test_a_column_of_another_type_is_named(path: Path) -> None:
    pd.read_parquet(path).assign(label_offset="x").to_parquet(path)
    with pytest.raises(InputError, match=r"column of another type \(.*'x'.*\): delete"):
        read_rows(path)
