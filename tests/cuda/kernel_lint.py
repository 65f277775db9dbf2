"""Rules for CUDA kernels that neither the simulator nor the compiler enforces, checked on their syntax trees.

- An index is never negative: no subtraction in one, unless within ``u32()`` or ``u64()``. The simulator wraps it
  around, the compiler reads whatever lies before the array.
- Every thread of a block reaches a barrier: no ``return`` in a kernel that has one, and no condition around it that
  depends on the thread.
- Two shared arrays are never made in one line, where the simulator makes one of them.
- Unsigned and signed integers are never mixed, which makes a float of both where they have 64 bits; nor is there a
  division with ``/`` or a literal of a float, which is a double.
"""

import ast
import pathlib

UNSIGNED, SIGNED = {"u16", "u32", "u64"}, {"i64"}


def functions(tree):
    """Yield the kernels and device functions of a module: what is given to `compile_kernel` and its like."""
    compiled = {
        call.args[0].id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, (ast.Name, ast.Attribute))
        and name_of(call.func) in ("compile_kernel", "compile_device_function")
        and isinstance(call.args[0], ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in compiled:
            yield node


def name_of(node):
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def is_call(node, *names):
    return isinstance(node, ast.Call) and name_of(node.func) in names


def lint(path):
    """Return the faults of a file, each with its line."""
    tree = ast.parse(pathlib.Path(path).read_text())
    return [
        f"{pathlib.Path(path).name}:{line}: {fault}" for node in functions(tree) for line, fault in sorted(faults(node))
    ]


def faults(function):
    yield from indices(function)
    yield from barriers(function)
    yield from shared_arrays(function)
    yield from promotions(function)


def indices(function):
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, (ast.Slice, ast.Tuple)) and minus(node.slice):
            yield node.lineno, "an index that may be negative"


def minus(node):
    """Return whether a subtraction stands in an expression outside a cast to unsigned."""
    if is_call(node, *UNSIGNED):
        return False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        # Of closed-over constants: of what is written in capitals or of loop bounds, such as (size - 1 - i).
        return not only_constants_and_loops(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return True
    return any(minus(child) for child in ast.iter_child_nodes(node))


def only_constants_and_loops(node):
    return all(len(n.id) == 1 or n.id in ("height", "width") for n in ast.walk(node) if isinstance(n, ast.Name))


def barriers(function):
    """Yield barriers that a thread may miss."""
    if not any(is_call(node, "syncthreads") for node in ast.walk(function)):
        return
    for node in ast.walk(function):
        if isinstance(node, ast.Return):
            yield node.lineno, "a return from a kernel that has a barrier"
    own = of_the_thread(function)
    for node in ast.walk(function):
        if isinstance(node, (ast.If, ast.While)) and depends(node.test, own) and has_barrier(node):
            yield node.lineno, "a condition around a barrier that depends on the thread"
        if isinstance(node, ast.For) and depends(node.iter, own) and has_barrier(node):
            yield node.lineno, "a loop around a barrier whose length depends on the thread"


def has_barrier(node):
    return any(is_call(child, "syncthreads") for child in ast.walk(node))


def of_the_thread(function):
    """Return the names whose values may differ between threads of a block."""
    own, before = set(), -1
    while len(own) != before:
        before = len(own)
        for node in ast.walk(function):
            if isinstance(node, (ast.Assign, ast.AugAssign)) and depends(node.value, own):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                own |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and stored(t, n)}
            # What is assigned under a condition of the thread's own differs between threads, too.
            if isinstance(node, (ast.If, ast.While)) and depends(node.test, own):
                for child in ast.walk(node):
                    if isinstance(child, ast.Assign):
                        own |= {t.id for t in child.targets if isinstance(t, ast.Name)}
    return own


def stored(target, name):
    return target is name or isinstance(target, ast.Tuple)


def depends(node, own):
    names = (name_of(child) for child in ast.walk(node) if isinstance(child, (ast.Name, ast.Attribute)))
    return any(name in own or name == "threadIdx" for name in names)


def shared_arrays(function):
    lines = [
        node.lineno
        for node in ast.walk(function)
        if is_call(node, "array") and isinstance(node.func, ast.Attribute) and name_of(node.func.value) == "shared"
    ]
    for line in {line for line in lines if lines.count(line) > 1}:
        yield line, "two shared arrays in one line"


def promotions(function):
    kinds = kinds_of_names(function)
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield node.lineno, "a division with /, which gives a double"
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield node.lineno, "a literal of a double"
        pairs = []
        if isinstance(node, ast.BinOp):
            pairs = [(node.left, node.right)]
        elif isinstance(node, ast.Compare):
            pairs = [(node.left, node.comparators[0])]
        for left, right in pairs:
            if {kind(left, kinds), kind(right, kinds)} in ({"unsigned", "signed"}, {"unsigned", "literal"}):
                yield node.lineno, f"unsigned and signed integers in {ast.unparse(node)}"


def kinds_of_names(function):
    """Return what kind of integer each name always is, where that is known."""
    found = {}
    for _ in range(3):
        seen = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                seen.setdefault(node.targets[0].id, set()).add(kind(node.value, found))
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                seen.setdefault(node.target.id, set()).add("signed")
        found = {name: next(iter(kinds)) for name, kinds in seen.items() if len(kinds) == 1}
    return found


def kind(node, names):
    """Return "unsigned", "signed", "literal" or None for an expression."""
    if is_call(node, *UNSIGNED):
        return "unsigned"
    if is_call(node, *SIGNED) or (isinstance(node, ast.Subscript) and name_of(node.value) == "meta"):
        return "signed"
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return "literal"
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp):
        pair = {kind(node.left, names), kind(node.right, names)}
        return next(iter(pair)) if len(pair) == 1 else "signed" if pair == {"signed", "literal"} else None
    return None
