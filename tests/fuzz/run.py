"""Damages files of every format that the package reads and looks at what its readers do: `make check-all`.

    python tests/fuzz/run.py --count 20000 --seed 0 [--only images,matlab]

A finding is an exception other than `ValueError` and `OSError`, a process that ends, an input that takes more
than 10 s or 500 MB, or a message that is longer than 1,500 characters or steers a terminal. The same seed
gives the same inputs; each finding is printed with its number and kept as a file. Exit code: 0 without any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.mutate import mutate
from fuzz.targets import EXPECTED, TARGETS, Seed

MOST_SECONDS, MOST_MB, MOST_CHARACTERS = 10.0, 500, 1500


def inputs(
    name: str, seeds: list[Seed], seed: int, first: int, count: int
) -> Iterator[tuple[int, Seed, bytes]]:
    """Number, seed and damaged bytes of `count` inputs of a target."""
    for number in range(first, first + count):
        rng = random.Random(f"{name} {seed} {number}")
        chosen = seeds[number % len(seeds)]
        yield number, chosen, mutate(chosen.content, chosen.kind, rng)


def fault_of(seed: Seed, content: bytes) -> str | None:
    """Reads a damaged file; what is wrong with how that went, or None."""
    began = time.process_time()  # other programs on the machine don't count
    fault = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seed.read(content)
    except EXPECTED as error:
        message = str(error)
        if len(message) > MOST_CHARACTERS:
            fault = f"a message of {len(message)} characters: {message[:200]!r}"
        elif not message.isprintable():
            fault = f"a message that steers a terminal: {message[:300]!r}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__}: {str(error)[:300]!r} ({Path(where.filename).name}:{where.lineno})"
    seconds = time.process_time() - began
    return f"{seconds:.1f} s" if fault is None and seconds > MOST_SECONDS else fault


def _peak_mb() -> int:
    """Most memory of this process since `_reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise OSError("this system doesn't tell memory in /proc")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def work(name: str, seed: int, first: int, count: int) -> None:
    """Inputs of one target, in a process of their own: a JSON line before and after each."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        seeds = list(TARGETS[name](Path(folder)))
        for one in seeds:
            if one.whole:
                one.read(one.content)
        for number, chosen, content in inputs(name, seeds, seed, first, count):
            print(json.dumps(["begin", number]), flush=True)
            _reset_peak()
            before = _peak_mb()
            fault = fault_of(chosen, content)
            more = _peak_mb() - before
            if fault is None and more > MOST_MB:
                fault = f"{more} MB"
            print(json.dumps(["end", number, fault]), flush=True)


def watch(name: str, seed: int, count: int, keep: Path) -> list[tuple[int, str]]:
    """The findings of a target; a process that hangs or ends is one, and the next goes on behind it."""
    found: list[tuple[int, str]] = []
    first = 0
    while first < count:
        command = [sys.executable, __file__, "--work", name, str(seed), str(first), str(count - first)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout is not None
            begun, done = -1, first
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                while True:
                    limit = 600.0 if begun < done else 6 * MOST_SECONDS
                    if not selector.select(timeout=limit):
                        process.kill()
                        found.append((begun, f"no answer in {limit:.0f} s"))
                        break
                    line = process.stdout.readline()
                    if not line:
                        break
                    what, number, *rest = json.loads(line)
                    if what == "begin":
                        begun = number
                    else:
                        done = number + 1
                        if rest[0] is not None:
                            found.append((number, rest[0]))
            code = process.wait()
        if code == 0:
            break
        if begun < done:
            raise RuntimeError(
                f"{name}: can't begin or read whole files (exit code {code}); run it with --work"
            )
        if not found or found[-1][0] != begun:
            found.append((begun, f"the process ended with code {code}"))
        first = begun + 1
    _keep(name, seed, [number for number, _ in found], keep)
    return found


def _keep(name: str, seed: int, numbers: list[int], keep: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        seeds = list(TARGETS[name](Path(folder))) if numbers else []
        for number in numbers:
            keep.mkdir(parents=True, exist_ok=True)
            for _, _, content in inputs(name, seeds, seed, number, 1):
                (keep / f"{name}-{seed}-{number}").write_bytes(content)


def main(words: list[str]) -> int:
    if words[:1] == ["--work"]:
        work(words[1], *map(int, words[2:5]))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="inputs of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS), help="names of targets, separated by commas")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for inputs of findings")
    options: Any = parser.parse_args(words)
    names = options.only.split(",")
    each, total = -(-options.count // len(names)), 0
    for name in names:
        began = time.perf_counter()
        found = watch(name, options.seed, each, options.keep)
        total += len(found)
        seconds = time.perf_counter() - began
        print(f"{name:<16} {each:6d} inputs, {len(found)} findings, {seconds:.0f} s", flush=True)
        for number, fault in found[:20]:
            print(f"  {number}: {fault}", flush=True)
    print(f"{each * len(names)} inputs, {total} findings")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
