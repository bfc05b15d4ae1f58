"""The rows of a set of pseudo labels: one for each image, in Parquet."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selftrain.errors import InputError

MANIFEST = "manifest.parquet"
KINDS = ("label", "confidence", "soft_classes", "soft_probabilities")
"""The pictures of an image in the order of their members; it may lack the last two."""
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("image_digest", pa.string()),
        ("shard", pa.string()),
        *((f"{kind}_{what}", pa.int64()) for kind in KINDS for what in ("offset", "length")),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("class_pixels", pa.list_(pa.int64())),
        ("confidence_histogram", pa.list_(pa.uint32())),  # flattened (class, bin)
        ("centroids", pa.list_(pa.int32())),  # flattened rows (class, y, x)
        ("agreement", pa.float64()),
        ("agreed_pixels", pa.list_(pa.int64())),
    ]
)
_ROW_GROUP = 256
_ALWAYS_READ = 2**28
_MOST_GROWTH = 2000
"""Decoded bytes for each byte of a file beyond `_ALWAYS_READ`. The histograms of 255 classes, with
nothing in them, come to 1600; a file that was made to fill the memory comes to millions."""


class ManifestWriter:
    """Collects rows into one Parquet file, compressed as they come; equal rows, equal bytes."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink, SCHEMA, compression="zstd", write_page_checksum=True
        )

    def append(self, row: dict[str, Any]) -> None:
        """Add an image's row; it has every column of the schema."""
        self._rows.append(row)
        if len(self._rows) == _ROW_GROUP:
            self._flush()

    def extend(self, rows: pa.Table) -> None:
        """Add the rows of a table of the same schema."""
        self._flush()
        self._writer.write_table(rows, row_group_size=_ROW_GROUP)

    def finish(self, **metadata: str) -> pa.Buffer:
        """Return the file, with these facts beside its rows; nothing can be added any more."""
        self._flush()
        self._writer.add_key_value_metadata(metadata)
        self._writer.close()
        return self._sink.getvalue()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
            self._rows = []


def read_metadata(path: Path) -> dict[str, str]:
    """Return the facts that a file was finished with.

    Raises:
        InputError: it is missing, cut off, or no Parquet.
    """
    try:
        found = pq.read_metadata(path).metadata or {}
        return {key.decode(): value.decode() for key, value in found.items()}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _unreadable(path) from error


def read_rows(path: Path) -> pa.Table:
    """Read rows in the schema's columns and types, each column in one piece.

    Raises:
        InputError: the file cannot be read, or a column is missing, has gaps or holds something
            else than it should; or it would take absurdly much memory.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _require_columns(path, file.schema_arrow.names)
            rows = _read_modest(path, file)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise _unreadable(path) from error
    try:
        # Other tools write the same values under other types: pandas 3 makes large strings.
        rows = rows.cast(SCHEMA).combine_chunks()
        rows.validate(full=True)
    except pa.ArrowException as error:
        raise InputError(
            f"{path} has a column of another type ({_first_line(error)}): delete the folder and "
            "run the stage again."
        ) from error
    for field, column in zip(SCHEMA, rows.columns, strict=True):
        gaps = column.null_count
        if pa.types.is_list(field.type):
            gaps += column.chunk(0).flatten().null_count
        if gaps:
            raise InputError(
                f"{path} has gaps in the column {field.name}: delete the folder and run the stage "
                "again."
            )
    return rows


def _require_columns(path: Path, names: list[str]) -> None:
    for name in SCHEMA.names:
        if names.count(name) != 1:
            raise InputError(
                f"{path} has {'no' if name not in names else 'more than one'} column {name}: "
                "delete the folder and run the stage again."
            )


def _read_modest(path: Path, file: pq.ParquetFile) -> pa.Table:
    """Read the schema's columns; raise InputError if a small file holds very much (a zip bomb)."""
    # Some rows at a time. What the file says of its columns is not asked for: pyarrow ends the
    # process where that is damaged.
    most = max(_ALWAYS_READ, _MOST_GROWTH * path.stat().st_size)
    taken, batches = 0, []
    for batch in file.iter_batches(_ROW_GROUP, columns=SCHEMA.names):
        batches.append(batch)
        taken += max(batch.nbytes, 8 * batch.num_rows * batch.num_columns)
        if taken > most:
            raise InputError(
                f"{path} holds more than {most / 1e6:,.0f} MB in {path.stat().st_size:,} bytes, "
                "which no set of pseudo labels does: make or copy the set again."
            )
    if not batches:
        return file.schema_arrow.empty_table().select(SCHEMA.names)
    return pa.Table.from_batches(batches)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path} cannot be read as Parquet: make or copy the set again.")
