"""Rows as bytes: lines of JSON, or Parquet by pyarrow. They know nothing of where the bytes go."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import IO, Any, Protocol

from rstitch.errors import invalid
from rstitch.export.rows import BREAKDOWN, USAGE, Row, plain

# Rows of a group in Parquet: some megabytes in memory.
_GROUP = 256


class RowWriter(Protocol):
    """Takes rows one after another; nothing is whole before `close`."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One line a row."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def add(self, row: Row) -> None:
        text = json.dumps(plain(row), ensure_ascii=False, separators=(",", ":"))
        self._stream.write(text.encode() + b"\n")

    def close(self) -> None:
        """Has nothing left to write."""


class Parquet:
    """Row groups, compressed by zstd; the same columns whatever the rows are."""

    def __init__(self, stream: IO[bytes]) -> None:
        pyarrow()
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa: Any = pa
        self._schema = _schema(pa)
        self._writer: Any = pq.ParquetWriter(stream, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) >= _GROUP:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


WRITERS: dict[str, Callable[[IO[bytes]], RowWriter]] = {"jsonl": JsonLines, "parquet": Parquet}


def pyarrow() -> ModuleType:
    """Imports pyarrow. Raises: RstitchError where it is not installed."""
    try:
        import pyarrow as pa
    except ImportError:
        remedy = "pip install 'rstitch[export]', or write lines here: --format jsonl, FILE.jsonl."
        raise invalid("--to", "this needs pyarrow.", remedy) from None
    module: ModuleType = pa
    return module


def _schema(pa: Any) -> Any:
    time = pa.timestamp("ms", tz="UTC")
    segment = [
        ("source", pa.string()),
        ("position", pa.int32()),
        ("text", pa.string()),
        ("reason", pa.string()),
        ("switch_entropy", pa.float64()),
        ("tokens", pa.list_(pa.uint32())),
        ("entropies", pa.list_(pa.float32())),
        ("uncertainties", pa.list_(pa.float32())),
    ]
    breakdown = pa.struct([(name, pa.int64()) for name in BREAKDOWN])
    return pa.schema(
        [
            ("session_id", pa.string()),
            ("state", pa.string()),
            ("label", pa.string()),
            ("policy", pa.string()),
            ("created", time),
            ("updated", time),
            ("length", pa.int32()),
            ("trace_id", pa.string()),
            ("finish_reason", pa.string()),
            ("profile", pa.string()),
            ("usage", pa.struct([*((name, pa.int64()) for name in USAGE), ("breakdown", breakdown)])),
            ("segments", pa.list_(pa.struct(segment))),
        ]
    )
