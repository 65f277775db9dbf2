"""The vector layer: LLVM vector code behind Numba intrinsics, for whatever width the host has.

Kernels hold addresses as int64 and call these intrinsics with them, so that one compiled kernel
serves arrays of any strides, read-only or not. Element types are small integer codes (`CODES`),
because a Numba function that captures anything but integers misses its on-disk cache.

What converts between the types of elements and of sums is in `conversions`; what reads and writes single elements and
runs of them, in `elements`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "BYTES",
    "CODES",
    "I8",
    "I16",
    "I32",
    "I64",
    "UNSIGNED",
    "after",
    "broadcast",
    "call",
    "constant",
    "counted",
    "cpu_name",
    "element_type",
    "has_fma",
    "has_masks",
    "lanes_of",
    "load_masked",
    "load_part",
    "load_vector",
    "multiply_add",
    "number",
    "pair_products",
    "prefetch",
    "registers",
    "shaped",
    "source_version",
    "splat",
    "store_masked",
    "store_part",
    "store_vector",
    "vector_bits",
]

CODES = {
    "float32": 0,
    "float64": 1,
    "int32": 2,
    "int64": 3,
    "float16": 4,
    "bfloat16": 5,
    "int8": 6,
    "uint8": 7,
    "int16": 8,
    "uint16": 9,
    "uint32": 10,
    "uint64": 11,
}
"""Element types by code. The first four are also the types that sums are kept in, and uint16 is for some of bytes."""

BYTES = {0: 4, 1: 8, 2: 4, 3: 8, 4: 2, 5: 2, 6: 1, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8}
UNSIGNED = {7, 9, 10, 11}
I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))


# The host


@functools.cache
def _features() -> dict[str, bool]:
    """Return the features that Numba compiles for, which its environment variables may restrict."""
    from numba.core import config
    from numba.core.codegen import get_host_cpu_features

    text = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {item[1:]: item[0] == "+" for item in text.split(",") if item}


@functools.cache
def _machine() -> str:
    """Return the host's family: "x86", "arm" or "other"."""
    import platform

    name = platform.machine().lower()
    return "arm" if name in ("aarch64", "arm64") else "x86" if name in ("x86_64", "amd64") else "other"


@functools.cache
def cpu_name() -> str:
    """Return LLVM's name of the host's processor."""
    import llvmlite.binding as llvm
    from numba.core import config

    return str(config.CPU_NAME or llvm.get_host_cpu_name())


@functools.cache
def vector_bits() -> int:
    """Return the width of the host's vectors in bits."""
    features = _features()
    if features.get("avx512f"):
        return 512
    return 256 if features.get("avx") else 128


@functools.cache
def registers() -> int:
    """Return how many vector registers the host has."""
    return 32 if _features().get("avx512f") or _machine() == "arm" else 16


def has_masks() -> bool:
    """Return whether the host has mask registers, with which part of a vector is stored as quickly as all of it."""
    return vector_bits() == 512


@functools.cache
def has_fma() -> bool:
    """Return whether the host multiplies and adds in one step."""
    return _features().get("fma", False) or _machine() == "arm"


def pair_products(n: int) -> str:
    """Return the name of the instruction that adds products of 16 bits in pairs, n of them; "" where there is none."""
    features = _features()
    if _machine() != "x86":
        return ""
    if n == 16 and features.get("avx512bw"):
        return "llvm.x86.avx512.pmaddw.d.512"
    if n == 8 and features.get("avx2"):
        return "llvm.x86.avx2.pmadd.wd"
    return "llvm.x86.sse2.pmadd.wd" if n == 4 else ""


@functools.cache
def source_version() -> int:
    """Return a number that changes whenever a source file of this folder does.

    Numba's cache looks only at the file of the function that it compiled. Factories capture this number, so that
    a change to an intrinsic or helper elsewhere is not answered with stale code.
    """
    digest = hashlib.blake2b(digest_size=7)
    for path in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return int.from_bytes(digest.digest(), "big")


# Types and conversions


def lanes_of(code: int) -> int:
    """Return how many numbers of a type a vector holds."""
    return vector_bits() // 8 // BYTES[code]


def element_type(code: int) -> Any:
    """Return the LLVM type of a code."""
    return {0: ir.FloatType(), 1: ir.DoubleType()}.get(code) or ir.IntType(8 * BYTES[code])


def shaped(element: Any, n: int) -> Any:
    """Return the type of n elements: a scalar for 1."""
    return element if n == 1 else ir.VectorType(element, n)


def splat(type_: Any, value: Any) -> Any:
    """Return a constant, in every lane where the type is a vector's."""
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [ir.Constant(type_.element, value)] * type_.count)
    return ir.Constant(type_, value)


def _pointer(builder: Any, address: Any, type_: Any) -> Any:
    return builder.inttoptr(address, type_.as_pointer())


def load_vector(builder: Any, address: Any, code: int, n: int) -> Any:
    """Load n elements that lie anywhere."""
    return builder.load(_pointer(builder, address, shaped(element_type(code), n)), align=BYTES[code])


def store_vector(builder: Any, value: Any, address: Any, code: int) -> None:
    """Store elements that may lie anywhere."""
    builder.store(value, _pointer(builder, address, value.type), align=BYTES[code])


def prefetch(builder: Any, address: Any) -> None:
    """Ask for the cache line of an address, to be read soon."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])


def first_lanes(builder: Any, count: Any, n: int) -> Any:
    """Return the mask of the first `count` of n lanes; all or none where `count` is beyond."""
    lanes = ir.VectorType(I64, n)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(n))), broadcast(builder, count, n))


def _masked(builder: Any, name: str, code: int, n: int, result: Any, arguments: list[Any]) -> Any:
    """Call a masked load or store, which llvmlite does not offer for vectors."""
    suffix = f"v{n}" + {0: "f32", 1: "f64"}.get(code, f"i{8 * BYTES[code]}")
    type_ = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, type_, f"llvm.masked.{name}.{suffix}.p0")
    return builder.call(function, arguments)


def load_masked(builder: Any, address: Any, mask: Any, code: int, n: int) -> Any:
    """Load the elements that a mask chooses; the others are 0, and their memory is not touched."""
    type_ = shaped(element_type(code), n)
    place, align = _pointer(builder, address, type_), ir.Constant(I32, BYTES[code])
    return _masked(builder, "load", code, n, type_, [place, align, mask, ir.Constant(type_, None)])


def store_masked(builder: Any, value: Any, address: Any, mask: Any, code: int) -> None:
    """Store the elements that a mask chooses."""
    place, align = _pointer(builder, address, value.type), ir.Constant(I32, BYTES[code])
    _masked(builder, "store", code, value.type.count, ir.VoidType(), [value, place, align, mask])


def load_part(builder: Any, address: Any, code: int, n: int, count: Any) -> Any:
    """Load the first `count` elements of a vector, an int64; the others are 0 and their memory is not touched."""
    return load_masked(builder, address, first_lanes(builder, count, n), code, n)


def store_part(builder: Any, value: Any, address: Any, code: int, count: Any) -> None:
    """Store the first `count` elements of a vector, an int64 from 0 on; all of them where it has no more.

    Processors without mask registers take tens of cycles for a masked store: there parts of 1, 2, 4, ... elements are
    stored, as many as the bits of `count` say.
    """
    n = value.type.count
    with builder.if_else(builder.icmp_signed(">=", count, constant(n))) as (whole, part):
        with whole:
            store_vector(builder, value, address, code)
        with part:
            if has_masks():
                store_masked(builder, value, address, first_lanes(builder, count, n), code)
                return
            size = n // 2
            while size:
                kind = ir.VectorType(I32, size)
                lanes = [ir.Constant(kind, list(range(first, first + size))) for first in (0, size)]
                some = builder.icmp_signed("!=", builder.and_(count, constant(size)), constant(0))
                low, high = (builder.shuffle_vector(value, value, places) for places in lanes)
                with builder.if_then(some):
                    store_vector(builder, low, address, code)
                value = builder.select(some, high, low)
                step = builder.select(some, constant(size * BYTES[code]), constant(0))
                address = builder.add(address, step)
                size //= 2


def interleaved(builder: Any, first: Any, second: Any) -> list[Any]:
    """Return the two vectors of first[0], second[0], first[1], second[1] and so on."""
    n = first.type.count
    orders = [[half * n // 2 + lane // 2 + n * (lane % 2) for lane in range(n)] for half in range(2)]
    return [builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, n), order)) for order in orders]


def multiply_add(builder: Any, a: Any, b: Any, c: Any, code: int) -> Any:
    """Return a * b + c, fused where the host can."""
    if code in (2, 3):
        return builder.add(builder.mul(a, b), c)
    if not has_fma():
        return builder.fadd(builder.fmul(a, b), c)
    # llvmlite's declare_intrinsic does not take vector types, so the function is declared by its name.
    suffix = "f32" if code == 0 else "f64"
    name = f"llvm.fma.v{a.type.count}{suffix}" if isinstance(a.type, ir.VectorType) else f"llvm.fma.{suffix}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return builder.call(function, [a, b, c])


def broadcast(builder: Any, value: Any, n: int) -> Any:
    """Return n copies of a scalar as a vector; the scalar itself for 1."""
    if n == 1:
        return value
    type_ = ir.VectorType(value.type, n)
    one = builder.insert_element(ir.Constant(type_, ir.Undefined), value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, n), [0] * n)
    return builder.shuffle_vector(one, ir.Constant(type_, ir.Undefined), zeros)


def number(code: int) -> Any:
    """Return the Numba type of what sums are kept in."""
    kinds = {0: types.float32, 1: types.float64, 2: types.int32, 3: types.int64, 9: types.uint16}
    return kinds[code]


def constant(value: int) -> Any:
    """Return an int64 constant."""
    return ir.Constant(I64, value)


# Calls


@intrinsic
def call(typingctx: Any, function: Any, arguments: Any) -> Any:
    """Call the compiled function at an address with the address of a tuple of int64,.

    What is called by its address is compiled once, and not again into every kernel that calls it. Arguments that do
    not fit in registers would be copied on the stack, by vectors just after they were stored one by one: that stalls.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[1])
        record = cgutils.alloca_once(builder, ir.ArrayType(I64, len(values)))
        start = builder.ptrtoint(record, I64)
        for i, value in enumerate(values):
            store_vector(builder, value, builder.add(start, constant(8 * i)), 3)
        type_ = ir.FunctionType(ir.VoidType(), [I64])
        builder.call(builder.inttoptr(args[0], type_.as_pointer()), [start])
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


def after(builder: Any, address: Any, values: list[Any]) -> tuple[Any, list[Any]]:
    """Return an address and vectors of which LLVM knows only that the address comes after the vectors.

    An empty piece of assembly holds them all, so that what is loaded from the address is not loaded, and its register
    taken, before the vectors are computed; the processor sees nothing of it.
    """
    if _machine() == "other":
        return address, values
    kind = "w" if _machine() == "arm" else "v" if vector_bits() == 512 else "x"
    held = [address, *values]
    types_ = [value.type for value in held]
    kinds = ["=r", *[f"={kind}"] * len(values), *map(str, range(len(held)))]
    type_ = ir.FunctionType(ir.LiteralStructType(types_), types_)
    result = builder.asm(type_, "", ",".join(kinds), held, side_effect=False)
    address, *values = (builder.extract_value(result, i) for i in range(len(held)))
    return address, values


@contextlib.contextmanager
def counted(builder: Any, count: Any) -> Iterator[Any]:
    """Emit a loop of `count` turns that LLVM does not unroll, and yield its index."""
    entry = builder.basic_block
    body, end = builder.append_basic_block("turn"), builder.append_basic_block("turned")
    builder.cbranch(builder.icmp_signed(">", count, constant(0)), body, end)
    builder.position_at_end(body)
    index = builder.phi(I64)
    index.add_incoming(constant(0), entry)
    yield index
    following = builder.add(index, constant(1))
    index.add_incoming(following, builder.basic_block)
    branch = builder.cbranch(builder.icmp_signed("<", following, count), body, end)
    branch.set_metadata("llvm.loop", _never_unrolled(builder.module))
    builder.position_at_end(end)


def _never_unrolled(module: Any) -> Any:
    """Return a loop's identity, which LLVM tells by its naming itself, with the wish not to be unrolled."""
    wish = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    identity = module.add_metadata([wish, ir.Constant(I64, len(module.metadata))])
    identity.operands = (identity, wish)
    return identity
