"""The shared library: at most MOST_BYTES stripped, shows mrt_* only, needs the C, maths and C++ libraries only."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

# libatomic: RISC-V has no exchange of a byte
ALLOWED = re.compile(r"lib(c|m|stdc\+\+|gcc_s|atomic|pthread|dl)\.so|ld-linux")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


MOST_BYTES = 1_135_000  # what a device with little storage is asked for


def main() -> int:
    library, strip = sys.argv[1], sys.argv[2]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "stripped.so")
        shutil.copy(library, copy)
        run(strip, copy)
        size = os.path.getsize(copy)
    if size >= MOST_BYTES:
        found.append(f"{size} bytes stripped, expected less than {MOST_BYTES}")
    for line in run("nm", "-D", "--defined-only", library).splitlines():
        if not line.split()[-1].startswith("mrt_"):
            found.append(f"shows {line.split()[-1]}")
    for needed in re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", library)):
        if not ALLOWED.match(needed):
            found.append(f"needs {needed}")
    if re.search(r"(RPATH|RUNPATH)", run("readelf", "-d", library)):
        found.append("has a run path")
    print("\n".join(found) if found else f"{size} bytes stripped")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
