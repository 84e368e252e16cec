"""Protocol Buffers' wire format: a message is a row of fields, each a number, a kind and a value. Nothing can run.

Only what files of weights use: no groups, no schema. Encoding: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from se_backbones.errors import WeightsError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
MAX_FIELDS = 200_000  # SENet-154 has some 20,000; a row of numbers that are not packed counts once
MAX_TEXT = 4096  # bytes of a name


class Field(NamedTuple):
    """A field, or a row of fields of one number and fixed size (a repeated field that was not packed).

    Attributes:
        value: of a VARINT, from 0 to 2^64 - 1; else 0.
        start, end: where the bytes of BYTES lie; of a FIXED32 or FIXED64, the whole row with its keys.
        key: bytes of a key in that row.
    """

    number: int
    kind: int
    value: int
    start: int
    end: int
    key: int = 0


class WireReader:
    """Reads the fields of messages; nothing is copied but what ``text`` and ``numbers`` hand out.

    Args:
        data: the whole file: bytes or a memory map.
        partial: data is only the beginning of a file: its last field may be cut.
    """

    def __init__(self, data, partial: bool = False):
        self._data, self._partial, self._left = data, partial, MAX_FIELDS

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message from start to end.

        Raises:
            WeightsError: the bytes are no such message, or are cut; the message begins with "it".
        """
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise WeightsError(f"it has more than {MAX_FIELDS:,} fields, which no network needs")
            key, value_at = self._varint(start, end)
            number, kind = key >> 3, key & 7
            if not 0 < number < 1 << 29 or kind not in (VARINT, FIXED64, BYTES, FIXED32):
                raise WeightsError(f"it has bytes at {start:,} that begin no field")
            if kind == VARINT:
                value, start = self._varint(value_at, end)
                yield Field(number, kind, value, value_at, start)
                continue
            if kind == BYTES:
                length, begin = self._varint(value_at, end)
                stop, key_size = begin + length, 0
            else:
                begin, key_size = start, value_at - start
                stop = value_at + _SIZES[kind]
            if stop > end:
                if not self._partial:
                    raise WeightsError(f"its field at {start:,} needs {stop - end:,} bytes more than there are")
                stop = end
            elif key_size:
                stop = self._end_of_row(start, value_at, end, key_size + _SIZES[kind])
            yield Field(number, kind, 0, begin, stop, key_size)
            start = stop

    def text(self, field: Field) -> str:
        """The field's text. Raises WeightsError where it is none, or as long as no name is."""
        try:
            if field.kind == BYTES and field.end - field.start <= MAX_TEXT:
                return bytes(self._data[field.start : field.end]).decode()
        except UnicodeDecodeError:
            pass
        raise WeightsError(f"its field {field.number} should be a name and is not")

    def integers(self, field: Field, most: int) -> list[int]:
        """The values of an int32 or int64 field, packed or not, with their signs; ``most`` is how many there may be."""
        if field.kind == VARINT:
            return [_signed(field.value)]
        if field.kind != BYTES:
            raise WeightsError(f"its field {field.number} should be a whole number and is not")
        values, start = [], field.start
        while start < field.end:
            value, start = self._varint(start, field.end)
            values.append(_signed(value))
            if len(values) > most:
                raise WeightsError(f"its field {field.number} has more than {most} whole numbers")
        return values

    def numbers(self, field: Field, kind: int) -> Tensor:
        """The numbers of a float (FIXED32) or double (FIXED64) field, packed or not, as float32 of their own memory."""
        import numpy as np

        size, bytes_there = _SIZES[kind], field.end - field.start
        if field.kind == BYTES:
            if bytes_there % size:
                raise WeightsError(f"its numbers take {bytes_there:,} bytes, which is no multiple of {size}")
            raw = np.frombuffer(self._data, np.uint8, bytes_there, field.start)
        elif field.kind == kind:
            rows = np.frombuffer(self._data, np.uint8, bytes_there, field.start).reshape(-1, field.key + size)
            raw = np.ascontiguousarray(rows[:, field.key :]).reshape(-1)
        else:
            raise WeightsError(f"its field {field.number} should hold numbers of {size} bytes and does not")
        return torch.from_numpy(np.array(raw.view(f"<f{size}"), "=f4", order="C"))

    def _varint(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for place in range(10):
            if start + place >= end:
                raise WeightsError("it ends within a number")
            byte = self._data[start + place]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, start + place + 1
        raise WeightsError(f"it has a number at {start:,} of more than 64 bits")

    def _end_of_row(self, start: int, value_at: int, end: int, step: int) -> int:
        """Where a row of fields with the same key ends, looked for in growing pieces: no length is written down."""
        import numpy as np

        key = self._data[start:value_at]
        position, count = start + step, 16
        while (count := min(count, (end - position) // step)) > 0:
            rows = np.frombuffer(self._data, np.uint8, count * step, position).reshape(count, step)
            same = (rows[:, : len(key)] == np.frombuffer(key, np.uint8)).all(1)
            if not same.all():
                return position + int(same.argmin()) * step
            position, count = position + count * step, count * 2
        return position


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
