#!/usr/bin/env python3
"""Makes tests/golden/torch/*.bin: small checkpoints in the layout of torch.save.

Run: python3 tools/golden/torch_files.py tests/golden/torch     (needs nothing but Python)

torch.save pickles with Python's own pickler and hands storages out by persistent identifiers. Stand-ins under torch's
names are therefore enough to get its bytes; the archive around them is written as PyTorch 2 does it. Given the values of
a file that PyTorch wrote, this script gives that file byte for byte, but for the random number in `serialization_id`.
"""
import io
import pickle
import struct
import sys
import types
import zlib
from collections import OrderedDict
from pathlib import Path


def module(name, **members):
    """Registers a module of this name, so that the pickler finds its members there."""
    made = types.ModuleType(name)
    for key, member in members.items():
        member.__module__, member.__qualname__, member.__name__ = name, key, key
        setattr(made, key, member)
    sys.modules[name] = made
    return made


def stand_in():
    def function(*_):
        raise RuntimeError("only its name is needed")
    return function


KINDS = {"f": "FloatStorage", "e": "HalfStorage", "b": "BFloat16Storage", "d": "DoubleStorage", "q": "LongStorage"}
torch = module("torch", **{name: type(name, (), {}) for name in KINDS.values()})
utils = module("torch._utils", _rebuild_tensor_v2=stand_in(), _rebuild_parameter=stand_in())


class Storage:
    def __init__(self, kind, values):
        self.kind, self.values = kind, values

    def packed(self):
        if self.kind == "b":  # the upper half of a float; the values below are exact in it
            return b"".join(struct.pack("<f", value)[2:] for value in self.values)
        return struct.pack(f"<{len(self.values)}{self.kind}", *self.values)


class Tensor:
    def __init__(self, storage, shape, stride=None, offset=0):
        if stride is None:
            stride = tuple(row_major(shape))
        self.arguments = (storage, offset, tuple(shape), stride, False)

    def __reduce_ex__(self, _):
        return utils._rebuild_tensor_v2, (*self.arguments, OrderedDict())


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce_ex__(self, _):
        return utils._rebuild_parameter, (self.tensor, True, OrderedDict())


def row_major(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return reversed(strides)


class Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        if value not in self.storages:
            self.storages.append(value)
        key = str(self.storages.index(value))
        return "storage", getattr(torch, KINDS[value.kind]), key, "cpu", len(value.values)


def archive(stem, entries):
    """A zip archive as PyTorch writes it: stored, data at multiples of 64 bytes, sizes after the data, zip64 at the end."""
    body, directory = bytearray(), bytearray()
    for name, data in entries:
        name = f"{stem}/{name}".encode()
        start, check = len(body), zlib.crc32(data)
        padding = -(start + 30 + len(name) + 4) % 64
        body += struct.pack("<4s5H3I2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(name), padding + 4)
        body += name + struct.pack("<2sH", b"FB", padding) + b"Z" * padding + data
        body += struct.pack("<4s3I", b"PK\7\x08", check, len(data), len(data))
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 0, 0, 0x808, 0, 0, 0, check, len(data), len(data), len(name),
                                 0, 0, 0, 0, 0, start) + name
    at, count, size = len(body), len(entries), len(directory)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 0x31e, 45, 0, 0, count, count, size, at)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, at + size, 1)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, at, 0)
    return bytes(body + directory + end)


def save(value, stem, number="0" * 40):
    file = io.BytesIO()
    pickler = Pickler(file)
    pickler.dump(value)
    storages = [(f"data/{i}", storage.packed()) for i, storage in enumerate(pickler.storages)]
    return archive(stem, [("data.pkl", file.getvalue()), ("byteorder", b"little"), *storages, ("version", b"3\n"),
                          (".data/serialization_id", number.encode())])


def main() -> None:
    folder = Path(sys.argv[1])
    exact = [1.0, -0.5, 0.25, 65536.0, 3.0, -2.0]
    half = [1.0, -0.5, 0.25, 65504.0, 3.0, -2.0]
    shared = Storage("f", [float(i) for i in range(12)])
    state = OrderedDict(
        single=Tensor(Storage("f", exact), (2, 3)),
        half=Tensor(Storage("e", half), (2, 3)),
        brain=Tensor(Storage("b", exact), (2, 3)),
        double=Tensor(Storage("d", exact), (2, 3)),
        whole=Tensor(Storage("q", [0, 1, 2]), (1, 3)),
        rows=Tensor(shared, (2, 3), offset=3),
        transposed=Tensor(shared, (3, 4), (1, 3)),
        learned=Parameter(Tensor(shared, (12,))),
        number=Tensor(Storage("f", [7.5]), ()),
        empty=Tensor(Storage("f", []), (0, 4)),
    )
    # What torch's state_dict() carries beside its entries.
    state._metadata = OrderedDict({"": {"version": 1}, "layer": {"version": 2}})
    (folder / "plain.bin").write_bytes(save(state, "plain"))
    kernel = Parameter(Tensor(Storage("f", [0.5, 1.5, 2.5, 3.5]), (2, 2)))
    nested = {"epoch": 3, "lr": 0.1, "done": True, "rates": [1, 2.0, None], "state_dict": {"layer.weight": kernel}}
    (folder / "nested.bin").write_bytes(save(nested, "archive"))


if __name__ == "__main__":
    main()
