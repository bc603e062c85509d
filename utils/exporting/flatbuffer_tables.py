"""Writes and reads tables of flatbuffers whose schema has no generated Python code here."""

from __future__ import annotations

from collections.abc import Sequence

import flatbuffers

_OFFSET = flatbuffers.packer.uoffset
_BYTE, _FLOAT = flatbuffers.number_types.Uint8Flags, flatbuffers.number_types.Float32Flags


class Table:
    """Builds a flatbuffers table field by field."""

    def __init__(self, builder: flatbuffers.Builder, num_fields: int):
        self._builder = builder
        builder.StartObject(num_fields)

    def offset(self, field: int, value: int) -> Table:
        """Adds a field that refers to a finished table, vector or text."""
        self._builder.PrependUOffsetTRelativeSlot(field, value, 0)
        return self

    def byte(self, field: int, value: int) -> Table:
        """Adds a field of 8 bits, such as an enumeration's value."""
        self._builder.PrependUint8Slot(field, value, 0)
        return self

    def integer(self, field: int, value: int) -> Table:
        """Adds a field of 32 bits without sign."""
        self._builder.PrependUint32Slot(field, value, 0)
        return self

    def end(self) -> int:
        """Finishes the table; returns its offset."""
        return self._builder.EndObject()


def offsets(builder: flatbuffers.Builder, values: Sequence[int]) -> int:
    """Writes a vector of tables or texts; returns its offset."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependUOffsetTRelative(value)
    return builder.EndVector()


def floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    """Writes a vector of float32; returns its offset."""
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return builder.EndVector()


class Reader:
    """Reads a table of finished flatbuffers by field numbers."""

    def __init__(self, data: bytes, position: int | None = None):
        start = flatbuffers.encode.Get(_OFFSET, data, 0) if position is None else position
        self._table = flatbuffers.table.Table(data, start)

    def _field(self, number: int) -> int:
        return self._table.Offset(4 + 2 * number)

    def byte(self, number: int) -> int:
        """Returns a field of 8 bits; 0 if it is missing."""
        place = self._field(number)
        return self._table.Get(_BYTE, self._table.Pos + place) if place else 0

    def table(self, number: int) -> Reader | None:
        """Returns the table that a field refers to; None if it is missing."""
        place = self._field(number)
        return self._at(self._table.Pos + place) if place else None

    def tables(self, number: int) -> list[Reader]:
        """Returns the tables of a vector; none if it is missing."""
        place = self._field(number)
        if not place:
            return []
        start = self._table.Vector(place)
        return [self._at(start + 4 * i) for i in range(self._table.VectorLen(place))]

    def floats(self, number: int) -> list[float]:
        """Returns the numbers of a vector of float32; none if it is missing."""
        place = self._field(number)
        return self._table.GetVectorAsNumpy(_FLOAT, place).tolist() if place else []

    def _at(self, position: int) -> Reader:
        return Reader(self._table.Bytes, self._table.Indirect(position))
