"""Objects compiled for more than the base instruction set may share nothing with the others.

A weak symbol (an inline function, a template) of such an object could be the copy that the linker keeps for all, which is
an illegal instruction on an older CPU. So: no weak symbols at all, and global ones only for the tables that name their
instruction set (kGemmTileAvx2, ...). And they call nothing that may throw, nor do the portable ones: all are built without
tables to unwind them.
"""

import re
import subprocess
import sys

ISAS = "avx2|avx512|shani|neon|dotprod|i8mm"
# __aeabi_: what ARMv7 has no instruction for, as a division of 64 bits, by the compiler's own library
CALLED = re.compile(
    r"mem(cpy|move|set)|sqrtf?|_GLOBAL_OFFSET_TABLE_|__aeabi_\w+|mrt::k\w+_(avx2|avx512|neon|dotprod|i8mm|scalar)|mrt::q_fold\(.*"
)


def problems(path: str) -> list[str]:
    """Of an object for an instruction set, or of portable loops."""
    isa = re.search(rf"_({ISAS})\.cc\.o", path)
    return ([] if isa is None else shared(path, isa.group(1))) + calls(path)


def shared(path: str, isa: str) -> list[str]:
    lines = subprocess.run(["nm", "--defined-only", "-C", path], check=True, capture_output=True, text=True).stdout
    found = []
    for line in lines.splitlines():
        kind, name = line[17:].split(" ", 1)
        if name == "DW.ref.__gxx_personality_v0":  # a pointer for exception tables, the same in every object
            continue
        if kind in "VvWwu":
            found.append(f"{path}: weak symbol {name}")
        elif kind.isupper() and not re.search(isa + r"\b", name, re.IGNORECASE):
            found.append(f"{path}: global symbol {name} does not carry the instruction set in its name")
        elif kind in "TU" and kind != "U":
            found.append(f"{path}: global function {name}; register it in a table instead")
    return found


def calls(path: str) -> list[str]:
    needed = subprocess.run(["nm", "-u", "-C", path], check=True, capture_output=True, text=True).stdout
    return [f"{path}: calls {name}" for name in re.findall(r" U (.*)", needed) if not CALLED.fullmatch(name)]


def main() -> int:
    objects = [path for path in sys.argv[1:] if re.search(rf"_({ISAS}|scalar)\.cc\.o", path)]
    found = [problem for path in objects for problem in problems(path)]
    print("\n".join(found) if found else f"{len(objects)} objects, nothing shared")
    return 1 if found or not objects else 0


if __name__ == "__main__":
    sys.exit(main())
