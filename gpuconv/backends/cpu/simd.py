"""The vector layer: LLVM vector code behind Numba intrinsics, for whatever width the host has.

Kernels hold addresses as int64 and call these intrinsics with them, so that one compiled kernel
serves arrays of any strides, read-only or not. Element types are small integer codes (`CODES`),
because a Numba function that captures anything but integers misses its on-disk cache.

Half precision is converted by integer arithmetic on the bits: exact, and the same on every host.
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
    "broadcast",
    "call",
    "constant",
    "copy_run",
    "counted",
    "cpu_name",
    "element_type",
    "fill_run",
    "has_fma",
    "lanes_of",
    "load",
    "load_masked",
    "load_part",
    "load_vector",
    "multiply_add",
    "narrow",
    "number",
    "read",
    "registers",
    "source_version",
    "store",
    "store_masked",
    "store_part",
    "store_vector",
    "vector_bits",
    "widen",
    "write_run",
    "zero",
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
"""Element types by code. The first four are also the types that sums are kept in."""

BYTES = {0: 4, 1: 8, 2: 4, 3: 8, 4: 2, 5: 2, 6: 1, 7: 1, 8: 2, 9: 2, 10: 4, 11: 8}
_UNSIGNED = {7, 9, 10, 11}
_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))


# The host


@functools.cache
def _features() -> dict[str, bool]:
    """Return the features that Numba compiles for, which its environment variables may restrict."""
    from numba.core import config
    from numba.core.codegen import get_host_cpu_features

    text = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return {item[1:]: item[0] == "+" for item in text.split(",") if item}


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
    import platform

    return 32 if _features().get("avx512f") or platform.machine() in ("aarch64", "arm64") else 16


@functools.cache
def has_fma() -> bool:
    """Return whether the host multiplies and adds in one step."""
    import platform

    return _features().get("fma", False) or platform.machine() in ("aarch64", "arm64")


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


def _shaped(element: Any, n: int) -> Any:
    """Return the type of n elements: a scalar for 1."""
    return element if n == 1 else ir.VectorType(element, n)


def _splat(type_: Any, value: Any) -> Any:
    if isinstance(type_, ir.VectorType):
        return ir.Constant(type_, [ir.Constant(type_.element, value)] * type_.count)
    return ir.Constant(type_, value)


def _pointer(builder: Any, address: Any, type_: Any) -> Any:
    return builder.inttoptr(address, type_.as_pointer())


def load_vector(builder: Any, address: Any, code: int, n: int) -> Any:
    """Load n elements that lie anywhere."""
    return builder.load(_pointer(builder, address, _shaped(element_type(code), n)), align=BYTES[code])


def store_vector(builder: Any, value: Any, address: Any, code: int) -> None:
    """Store elements that may lie anywhere."""
    builder.store(value, _pointer(builder, address, value.type), align=BYTES[code])


def first_lanes(builder: Any, count: Any, n: int) -> Any:
    """Return the mask of the first `count` of n lanes; all or none where `count` is beyond."""
    lanes = ir.VectorType(_I64, n)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(n))), broadcast(builder, count, n))


def _masked(builder: Any, name: str, code: int, n: int, result: Any, arguments: list[Any]) -> Any:
    """Call a masked load or store, which llvmlite does not offer for vectors."""
    suffix = f"v{n}" + {0: "f32", 1: "f64"}.get(code, f"i{8 * BYTES[code]}")
    type_ = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, type_, f"llvm.masked.{name}.{suffix}.p0")
    return builder.call(function, arguments)


def load_masked(builder: Any, address: Any, mask: Any, code: int, n: int) -> Any:
    """Load the elements that a mask chooses; the others are 0, and their memory is not touched."""
    type_ = _shaped(element_type(code), n)
    place, align = _pointer(builder, address, type_), ir.Constant(_I32, BYTES[code])
    return _masked(builder, "load", code, n, type_, [place, align, mask, ir.Constant(type_, None)])


def store_masked(builder: Any, value: Any, address: Any, mask: Any, code: int) -> None:
    """Store the elements that a mask chooses."""
    place, align = _pointer(builder, address, value.type), ir.Constant(_I32, BYTES[code])
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
            if registers() == 32:
                store_masked(builder, value, address, first_lanes(builder, count, n), code)
                return
            size = n // 2
            while size:
                kind = ir.VectorType(_I32, size)
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
    return [builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, n), order)) for order in orders]


def gather(builder: Any, address: Any, step: Any, code: int, n: int, mask: Any = None) -> Any:
    """Load n elements that lie `step` bytes apart: those that a mask chooses, 0 for the others."""
    lanes = ir.Constant(ir.VectorType(_I64, n), list(range(n)))
    addresses = builder.add(broadcast(builder, address, n), builder.mul(lanes, broadcast(builder, step, n)))
    places = builder.inttoptr(addresses, ir.VectorType(element_type(code).as_pointer(), n))
    type_ = _shaped(element_type(code), n)
    mask = ir.Constant(ir.VectorType(ir.IntType(1), n), [1] * n) if mask is None else mask
    align = ir.Constant(_I32, BYTES[code])
    suffix = f"v{n}" + {0: "f32", 1: "f64"}.get(code, f"i{8 * BYTES[code]}")
    types_ = [places.type, _I32, mask.type, type_]
    name = f"llvm.masked.gather.{suffix}.v{n}p0"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(type_, types_), name)
    return builder.call(function, [places, align, mask, ir.Constant(type_, None)])


def widen(builder: Any, value: Any, source: int, accumulator: int, n: int) -> Any:
    """Convert what was loaded as `source` into the type of the sums."""
    if source == accumulator:
        return value
    i32, f32 = _shaped(_I32, n), _shaped(ir.FloatType(), n)
    if source in (4, 5) and accumulator == 1:
        return builder.fpext(widen(builder, value, source, 0, n), _shaped(ir.DoubleType(), n))
    if source == CODES["bfloat16"]:
        return builder.bitcast(builder.shl(builder.zext(value, i32), _splat(i32, 16)), f32)
    if source == CODES["float16"]:
        bits = builder.zext(value, i32)
        sign = builder.shl(builder.and_(bits, _splat(i32, 0x8000)), _splat(i32, 16))
        magnitude = builder.shl(builder.and_(bits, _splat(i32, 0x7FFF)), _splat(i32, 13))
        # As a float the shifted bits have an exponent 112 too small, subnormals included; infinity and NaN are apart.
        finite = builder.bitcast(builder.fmul(builder.bitcast(magnitude, f32), _splat(f32, 2.0**112)), i32)
        special = builder.icmp_unsigned(">=", magnitude, _splat(i32, 0x7C00 << 13))
        chosen = builder.select(special, builder.or_(magnitude, _splat(i32, 0x7F800000)), finite)
        return builder.bitcast(builder.or_(chosen, sign), f32)
    target = _shaped(element_type(accumulator), n)
    if accumulator in (0, 1):
        if source in (0, 1):
            return builder.fpext(value, target) if accumulator == 1 else builder.fptrunc(value, target)
        return builder.uitofp(value, target) if source in _UNSIGNED else builder.sitofp(value, target)
    if BYTES[source] == BYTES[accumulator]:
        return value
    if BYTES[source] > BYTES[accumulator]:
        return builder.trunc(value, target)
    return builder.zext(value, target) if source in _UNSIGNED else builder.sext(value, target)


def narrow(builder: Any, value: Any, accumulator: int, target: int, n: int) -> Any:
    """Convert a sum into the type of the result.

    Floats round to nearest even, and lose their fraction on their way into integers; integers wrap around.
    """
    if target == accumulator:
        return value
    if accumulator in (0, 1) and target in (0, 1):
        type_ = _shaped(element_type(target), n)
        return builder.fpext(value, type_) if target == 1 else builder.fptrunc(value, type_)
    if accumulator in (0, 1) and target not in (4, 5):
        # Vectors of floats become int32 in one step, where int64 are converted one by one; C converts to short integers
        # in the same way.
        whole = builder.fptosi(value, _shaped(_I32 if BYTES[target] < 4 else _I64, n))
        return whole if BYTES[target] == 8 else builder.trunc(whole, _shaped(element_type(target), n))
    if target not in (4, 5) and BYTES[target] == BYTES[accumulator]:
        return value
    if target not in (4, 5):
        type_ = _shaped(element_type(target), n)
        if BYTES[target] < BYTES[accumulator]:
            return builder.trunc(value, type_)
        return builder.sext(value, type_)
    i16, i32, f32 = _shaped(_I16, n), _shaped(_I32, n), _shaped(ir.FloatType(), n)
    bits = builder.bitcast(value, i32)
    sign = builder.lshr(builder.and_(bits, _splat(i32, 0x80000000)), _splat(i32, 16))
    magnitude = builder.and_(bits, _splat(i32, 0x7FFFFFFF))
    is_nan = builder.icmp_unsigned(">", magnitude, _splat(i32, 0x7F800000))
    drop = 16 if target == CODES["bfloat16"] else 13
    odd = builder.and_(builder.lshr(magnitude, _splat(i32, drop)), _splat(i32, 1))
    if target == CODES["bfloat16"]:
        rounded = builder.lshr(builder.add(magnitude, builder.add(odd, _splat(i32, 0x7FFF))), _splat(i32, 16))
        quiet = builder.or_(builder.lshr(magnitude, _splat(i32, 16)), _splat(i32, 0x40))
        chosen = builder.select(is_nan, quiet, rounded)
    else:
        rebased = builder.add(magnitude, _splat(i32, (-112 << 23) & 0xFFFFFFFF))
        normal = builder.lshr(builder.add(rebased, builder.add(odd, _splat(i32, 0xFFF))), _splat(i32, 13))
        # Adding 0.5 lets the float unit round a subnormal result to its last place.
        half = _splat(i32, 126 << 23)
        shifted = builder.fadd(builder.bitcast(magnitude, f32), builder.bitcast(half, f32))
        subnormal = builder.sub(builder.bitcast(shifted, i32), half)
        chosen = builder.select(builder.icmp_unsigned("<", magnitude, _splat(i32, 113 << 23)), subnormal, normal)
        overflow = builder.icmp_unsigned(">=", magnitude, _splat(i32, 143 << 23))
        chosen = builder.select(overflow, _splat(i32, 0x7C00), chosen)
        chosen = builder.select(is_nan, _splat(i32, 0x7E00), chosen)
    return builder.trunc(builder.or_(chosen, sign), i16)


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
    one = builder.insert_element(ir.Constant(type_, ir.Undefined), value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, n), [0] * n)
    return builder.shuffle_vector(one, ir.Constant(type_, ir.Undefined), zeros)


def number(code: int) -> Any:
    """Return the Numba type of what sums are kept in."""
    return (types.float32, types.float64, types.int32, types.int64)[code]


def constant(value: int) -> Any:
    """Return an int64 constant."""
    return ir.Constant(_I64, value)


# Scalars


@intrinsic(prefer_literal=True)
def read(typingctx: Any, address: Any) -> Any:
    """Return the int64 at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return load_vector(builder, args[0], 3, 1)

    return types.int64(types.int64), codegen


@intrinsic(prefer_literal=True)
def load(typingctx: Any, address: Any, source: Any, accumulator: Any) -> Any:
    """Return the element of type `source` at an address, converted to the accumulator's type."""
    s, a = source.literal_value, accumulator.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return widen(builder, load_vector(builder, args[0], s, 1), s, a, 1)

    return number(a)(types.int64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def store(typingctx: Any, address: Any, value: Any, accumulator: Any, target: Any) -> Any:
    """Store a value of the accumulator's type at an address as type `target`."""
    a, t = accumulator.literal_value, target.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        store_vector(builder, narrow(builder, args[1], a, t, 1), args[0], t)
        return context.get_dummy_value()

    return types.void(types.int64, number(a), accumulator, target), codegen


@intrinsic(prefer_literal=True)
def zero(typingctx: Any, accumulator: Any) -> Any:
    """Return 0 of the accumulator's type."""
    a = accumulator.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(element_type(a), 0)

    return number(a)(accumulator), codegen


# Calls


@intrinsic
def call(typingctx: Any, function: Any, arguments: Any) -> Any:
    """Call the compiled function at an address with the address of a tuple of int64,.

    What is called by its address is compiled once, and not again into every kernel that calls it. Arguments that do
    not fit in registers would be copied on the stack, by vectors just after they were stored one by one: that stalls.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = cgutils.unpack_tuple(builder, args[1])
        record = cgutils.alloca_once(builder, ir.ArrayType(_I64, len(values)))
        start = builder.ptrtoint(record, _I64)
        for i, value in enumerate(values):
            store_vector(builder, value, builder.add(start, constant(8 * i)), 3)
        type_ = ir.FunctionType(ir.VoidType(), [_I64])
        builder.call(builder.inttoptr(args[0], type_.as_pointer()), [start])
        return context.get_dummy_value()

    return types.void(types.int64, arguments), codegen


@contextlib.contextmanager
def counted(builder: Any, count: Any) -> Iterator[Any]:
    """Emit a loop of `count` turns that LLVM does not unroll, and yield its index."""
    entry = builder.basic_block
    body, end = builder.append_basic_block("turn"), builder.append_basic_block("turned")
    builder.cbranch(builder.icmp_signed(">", count, constant(0)), body, end)
    builder.position_at_end(body)
    index = builder.phi(_I64)
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
    identity = module.add_metadata([wish, ir.Constant(_I64, len(module.metadata))])
    identity.operands = (identity, wish)
    return identity


# Runs of elements


@intrinsic(prefer_literal=True)
def copy_run(typingctx: Any, to: Any, address: Any, count: Any, step: Any, source: Any, accumulator: Any) -> Any:
    """Copy `count` elements, `step` bytes apart, to consecutive places of the accumulator's type."""
    s, a = source.literal_value, accumulator.literal_value
    size, n = BYTES[a], lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, address, count, step = args[:4]

        def elements(first: Any, number: Any) -> None:
            with cgutils.for_range(builder, number) as loop:
                i = builder.add(first, loop.index)
                value = load_vector(builder, builder.add(address, builder.mul(i, step)), s, 1)
                store_vector(
                    builder, widen(builder, value, s, a, 1), builder.add(to, builder.mul(i, constant(size))), a
                )

        def pairs(first: Any, left: Any) -> None:
            """Keep every second element; `left` is how many to keep, all of a vector for None."""
            place = builder.add(address, builder.mul(first, step))
            halves = []
            for half in range(2):
                at = builder.add(place, constant(half * n * size))
                if left is None:
                    halves.append(load_vector(builder, at, a, n))
                else:
                    read = builder.sub(builder.shl(left, constant(1)), constant(1 + half * n))
                    halves.append(load_masked(builder, at, first_lanes(builder, read, n), a, n))
            even = ir.Constant(ir.VectorType(_I32, n), [2 * lane for lane in range(n)])
            value = builder.shuffle_vector(*halves, even)
            target = builder.add(to, builder.mul(first, constant(size)))
            if left is None:
                store_vector(builder, value, target, a)
            else:
                store_masked(builder, value, target, first_lanes(builder, left, n), a)

        is_dense = builder.icmp_signed("==", step, constant(BYTES[s]))
        with builder.if_else(is_dense) as (dense, strided):
            with dense:
                full = builder.sdiv(count, constant(n))
                with cgutils.for_range(builder, full) as loop:
                    i = builder.mul(loop.index, constant(n))
                    value = load_vector(builder, builder.add(address, builder.mul(i, constant(BYTES[s]))), s, n)
                    store_vector(
                        builder, widen(builder, value, s, a, n), builder.add(to, builder.mul(i, constant(size))), a
                    )
                done = builder.mul(full, constant(n))
                if s == a:
                    left = builder.sub(count, done)
                    with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                        here, mask = builder.mul(done, constant(size)), first_lanes(builder, left, n)
                        value = load_masked(builder, builder.add(address, here), mask, a, n)
                        store_masked(builder, value, builder.add(to, here), mask, a)
                else:
                    elements(done, builder.sub(count, done))
            with strided:
                if s != a:
                    elements(constant(0), count)
                else:
                    with builder.if_else(builder.icmp_signed("==", step, constant(2 * size))) as (by_two, other):
                        with by_two:
                            # The last vector's second half may lie beyond the array.
                            full = builder.sdiv(builder.sub(count, constant(1)), constant(n))
                            with cgutils.for_range(builder, full) as loop:
                                pairs(builder.mul(loop.index, constant(n)), None)
                            done = builder.mul(full, constant(n))
                            left = builder.sub(count, done)
                            with builder.if_then(builder.icmp_signed(">", left, constant(0))):
                                pairs(done, left)
                        with other:
                            vectors = builder.sdiv(builder.add(count, constant(n - 1)), constant(n))
                            with cgutils.for_range(builder, vectors) as loop:
                                i = builder.mul(loop.index, constant(n))
                                mask = first_lanes(builder, builder.sub(count, i), n)
                                value = gather(builder, builder.add(address, builder.mul(i, step)), step, a, n, mask)
                                store_masked(builder, value, builder.add(to, builder.mul(i, constant(size))), mask, a)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, source, accumulator), codegen


@intrinsic(prefer_literal=True)
def fill_run(typingctx: Any, to: Any, count: Any, value: Any, accumulator: Any) -> Any:
    """Write `value` to `count` consecutive places of the accumulator's type."""
    a = accumulator.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, count, value = args[:3]
        with cgutils.for_range(builder, count) as loop:
            store_vector(builder, value, builder.add(to, builder.mul(loop.index, constant(BYTES[a]))), a)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, number(a), accumulator), codegen


@intrinsic(prefer_literal=True)
def write_run(
    typingctx: Any, to: Any, step: Any, address: Any, count: Any, bias: Any, accumulator: Any, target: Any
) -> Any:
    """Write `count` consecutive sums, plus the bias, to places `step` bytes apart of type `target`."""
    a, t = accumulator.literal_value, target.literal_value
    n = lanes_of(a)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, step, address, count, bias = args[:5]
        plus = builder.fadd if a < 2 else builder.add

        def write(i: Any, width: int) -> None:
            value = load_vector(builder, builder.add(address, builder.mul(i, constant(BYTES[a]))), a, width)
            value = narrow(builder, plus(value, broadcast(builder, bias, width)), a, t, width)
            store_vector(builder, value, builder.add(to, builder.mul(i, step)), t)

        def elements(first: Any, number: Any) -> None:
            with cgutils.for_range(builder, number) as loop:
                write(builder.add(first, loop.index), 1)

        with builder.if_else(builder.icmp_signed("==", step, constant(BYTES[t]))) as (dense, strided):
            with dense:
                full = builder.sdiv(count, constant(n))
                with cgutils.for_range(builder, full) as loop:
                    write(builder.mul(loop.index, constant(n)), n)
                done = builder.mul(full, constant(n))
                elements(done, builder.sub(count, done))
            with strided:
                elements(constant(0), count)
        return context.get_dummy_value()

    i64 = types.int64
    return types.void(i64, i64, i64, i64, number(a), accumulator, target), codegen
