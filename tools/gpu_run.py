"""What only a GPU can do, in about ten minutes: tests, timings, and a network with its undeformed twin.

    python tools/gpu_run.py --out "$OUT"                  # on a machine with a GPU
    python tools/gpu_run.py --out out/gpu --rehearse      # the same steps in small, on the processor

The steps, each with its share of the time, its output in `OUT/NAME.log` and its figures in
`OUT/figures.json`: the tests of the Triton kernels on hardware; `dfmamba bench ops`; rendering of hands by
Warp on the GPU; training of a model and of its twin without deformable positions, same images, same seed, as
many crops, composed on the GPU; validation of both. A step that fails is named, and the others go on.
Weights lie in `OUT/deformable` and `OUT/undeformed`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARES = {"triton": 0.15, "bench": 0.1, "render": 0.2, "train": 0.5}
"""Of the minutes; what a step leaves goes to training."""

Figures = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out/gpu")))
    parser.add_argument("--rehearse", action="store_true", help="in small, on the processor")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all steps together")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--images", type=int, default=12_000, help="hands to render at most")
    parser.add_argument("--workers", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--photos", help="folder of photographs for backgrounds")
    options = parser.parse_args()
    if options.rehearse:
        options.model, options.batch, options.images, options.workers = "test", 4, 8, 0
    run = Run(options)
    for name in ("triton", "bench", "render", "train"):
        run.do(name, getattr(run, name))
    print(json.dumps(run.figures, indent=1))
    return 1 if run.failed else 0


class Run:
    """The steps, what they found, and the time that is left.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.device = "cpu" if options.rehearse else "cuda"
        self.began, self.failed = time.monotonic(), False
        self.figures: Figures = {}
        self.rendered = options.images
        self.out.mkdir(parents=True, exist_ok=True)

    @property
    def left_s(self) -> float:
        """Seconds until all steps must be done."""
        return 60 * self.options.minutes - (time.monotonic() - self.began)

    def do(self, name: str, step: Callable[[], Figures]) -> None:
        """Runs a step, and writes what all steps have found so far."""
        began = time.monotonic()
        try:
            found = step()
        except Exception as error:  # the other steps are worth their time anyway
            self.failed = True
            found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        self.figures[name] = {**found, "seconds": round(time.monotonic() - began, 1)}
        (self.out / "figures.json").write_text(json.dumps(self.figures, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(self.figures[name])[:500]}", file=sys.stderr, flush=True)

    def command(self, name: str, words: list[str], limit_s: float) -> str:
        """Runs a command with its output in a file; returns the end of it.

        Raises:
            RuntimeError: it failed or took too long.
        """
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        log = self.out / f"{name}.log"
        with log.open("w", encoding="utf-8") as file:
            try:
                code = subprocess.run(
                    words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=limit_s
                ).returncode
            except subprocess.TimeoutExpired:
                code = -1
        tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
        if code:
            raise RuntimeError(f"{' '.join(words[:6])}: exit {code} (see {log.name}): {tail}")
        return tail

    def limit(self, name: str) -> float:
        """Seconds for a step; a rehearsal takes as long as it takes."""
        if self.options.rehearse:
            return 600.0
        return max(20.0, min(self.left_s, 60 * self.options.minutes * SHARES[name]))

    def triton(self) -> Figures:
        """The tests of the Triton kernels; in small, those of an import."""
        tests = "tests/ops/test_backend.py" if self.options.rehearse else "tests/ops/test_triton.py"
        words = [sys.executable, "-m", "pytest", tests, "-q", "-n0", "-p", "no:cacheprovider"]
        return {"result": self.command("triton", words, self.limit("triton")).strip().splitlines()[-1]}

    def bench(self) -> Figures:
        """`dfmamba bench ops`, forward and backward."""
        path = self.out / "bench_ops.json"
        words = [
            sys.executable,
            "-m",
            "dfmamba",
            "bench",
            "ops",
            "--device",
            self.device,
            "--json",
            str(path),
        ]
        if self.options.rehearse:
            words += ["--quick"]
        self.command("bench", words, self.limit("bench"))
        return {"file": path.name}

    def config(self, deformable: bool, steps: int) -> Any:
        """The run of the model or of its twin."""
        from dfmamba.train.config import DataConfig, TrainConfig

        options = self.options
        data = DataConfig(
            pictures=self.rendered, first=self.rendered, cache=str(self.out / "pool"),
            workers=options.workers, backgrounds=8 if options.rehearse else 1500, photos=options.photos,
            render_device="cpu" if options.rehearse else "cuda:0", size=48 if options.rehearse else 144,
        )  # fmt: skip
        return TrainConfig(
            out=str(self.out / ("deformable" if deformable else "undeformed")), model=options.model,
            backbone_args={} if deformable else {"deformable": False}, device=self.device, data=data,
            batch_size=options.batch, steps=steps, warmup=min(200, max(1, steps // 10)), lr=2e-3,
            precision="float32" if options.rehearse else "bfloat16", validate_every=steps, save_every=steps,
        )  # fmt: skip

    def render(self) -> Figures:
        """Renders as many hands as fit into its time, shard by shard, on the GPU."""
        from dfmamba.train import pool

        shard = 4 if self.options.rehearse else 1000
        pool.SHARD = shard
        data = self.config(True, 1).data
        shutil.rmtree(data.cache, ignore_errors=True)
        began, limit, done = time.monotonic(), self.limit("render"), 0
        batch = shard * max(1, self.options.workers)
        while done < self.options.images:
            count = min(batch, self.options.images - done)
            pool.render(data, done, count)
            done += count
            each = (time.monotonic() - began) / done
            if (time.monotonic() - began) + each * batch > limit:
                break
        self.rendered = done
        return {"images": done, "images_per_s": round(done / (time.monotonic() - began), 1)}

    def train(self) -> Figures:
        """Trains both for as many steps as fit, one after the other; they see the same batches."""
        seconds = max(20.0, (self.left_s - 45) / 2)
        rates = {name: self._rate(name == "deformable") for name in ("deformable", "undeformed")}
        steps = 4 if self.options.rehearse else max(50, int(0.9 * seconds * min(rates.values())))
        found: Figures = {"steps": steps, "crops": steps * self.options.batch, "steps_per_s": rates}
        for name in rates:
            found[name] = self._fit(name == "deformable", steps)
        return found

    def _rate(self, deformable: bool) -> float:
        """Steps a second after the first ones."""
        from dfmamba.models import MODELS
        from dfmamba.train.engine import Network
        from dfmamba.train.parallel import Ranks
        from dfmamba.train.pool import Pool, PoseTask

        config = self.config(deformable, 1000)
        source = Pool(config, MODELS[config.model].image_size)
        network = Network(config, PoseTask(config), Ranks())
        count = 2 if self.options.rehearse else 12
        for step in range(count):
            network.step(step, source.batch(step), False)
        began = time.monotonic()
        for step in range(count, 2 * count):
            network.step(step, source.batch(step), False)
        return round(count / (time.monotonic() - began), 2)

    def _fit(self, deformable: bool, steps: int) -> Figures:
        from dataclasses import replace

        from dfmamba.models import MODELS
        from dfmamba.train.engine import train
        from dfmamba.train.evaluate import SyntheticValidation
        from dfmamba.train.pool import Pool, PoseTask

        config = self.config(deformable, steps)
        shutil.rmtree(config.out, ignore_errors=True)
        began = time.monotonic()
        source = Pool(config, MODELS[config.model].image_size, workers=0 if self.options.rehearse else 2)
        model = train(config, source, PoseTask(config))
        trained = time.monotonic() - began
        few = SyntheticValidation(replace(config, validation=1 if self.options.rehearse else 24))
        return {
            "crops_per_s": round(steps * config.batch_size / trained, 1),
            **{name: round(value, 3) for name, value in few(model).items()},
        }


if __name__ == "__main__":
    sys.exit(main())
