"""What the machine code of a kernel is made of: its inner loop, and loads of 128 bits, from nvdisasm's listing."""

import re

INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)", re.MULTILINE)
LABEL = re.compile(r"^(\.L_x_\w+):")
FLOATS, INTEGERS = ("FFMA", "FFMA2", "DFMA"), ("IMAD",)
"""What multiplies and adds; of integers only the plain one, as IMAD.MOV, IMAD.WIDE and their like compute addresses."""


def parsed(listing):
    """Return the instructions as (name, rest), and the place of each label among them."""
    instructions, labels = [], {}
    for line in listing.splitlines():
        label, found = LABEL.match(line), INSTRUCTION.match(line)
        if label:
            labels[label[1]] = len(instructions)
        elif found:
            instructions.append((found[2], found[3]))
    return instructions, labels


def loops(listing):
    """Return the innermost loops, each as the instructions from the target of a backward branch to the branch."""
    instructions, labels = parsed(listing)
    spans = []
    for i, (name, rest) in enumerate(instructions):
        target = re.search(r"`\((\.L_x_\w+)\)", rest)
        if name.startswith("BRA") and target and labels.get(target[1], i + 1) <= i:
            spans.append((labels[target[1]], i))
    # The last instruction of a listing is a branch to itself.
    spans = [span for span in spans if span[0] < span[1]]
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[name for name, _ in instructions[first : last + 1]] for first, last in inner]


def mix(listing, products=FLOATS):
    """Return what is recorded of a kernel.

    `loop` and `multiply_adds` are the instructions, and those of `products`, of the innermost loop that has most of
    these; `shared_128` its loads of 128 bits from shared memory, and `global_128` the kernel's from the GPU's.
    """

    def fused(names):
        return sum(name in products for name in names)

    best = max(loops(listing), key=fused, default=[])
    whole = [name for name, _ in parsed(listing)[0]]
    return {
        "loop": len(best),
        "multiply_adds": fused(best),
        "shared_128": sum(name.startswith("LDS") and ".128" in name for name in best),
        "global_128": sum(name.startswith("LDG") and ".128" in name for name in whole),
    }
