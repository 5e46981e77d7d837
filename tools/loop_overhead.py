"""What the training loop costs beside the work that any loop has to do.

    python tools/loop_overhead.py --model nano --crop 96 --batch 32 --threads 1

The same model, loss and optimiser run in turns in `dfmamba.train.engine` and in a bare loop (forward,
backward, clipping, step), both with batches that are ready. Between them lie the average of the weights, the
losses for the log, the check for values that aren't finite, and the meter. Prints medians, and the median of
the differences within a turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from dfmamba.models import MODELS
from dfmamba.train.config import TrainConfig
from dfmamba.train.engine import Network
from dfmamba.train.meter import Meter
from dfmamba.train.optim import learning_rate
from dfmamba.train.parallel import Ranks
from dfmamba.train.pool import PoseTask


def make_batch(count: int, size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Noise with two labelled hands in each picture."""
    torch.manual_seed(0)
    valid = torch.ones(count, 2, 21, dtype=torch.bool)
    target = {"joints_25d": torch.rand(count, 2, 21, 3) * size, "valid": valid, "present": valid.any(-1)}
    target["box_size_px"] = torch.full((count, 2), size / 2)
    return torch.rand(count, 3, size, size), target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="nano", choices=sorted(MODELS))
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            model=options.model,
            crop=options.crop,
            batch_size=options.batch,
            out=folder,
            device=options.device,
        )
        batch = make_batch(options.batch, options.crop)
        task = PoseTask(config)
        ours, theirs = Network(config, task, Ranks()), Network(config, task, Ranks())
        meter = Meter(config, Path(folder), 0, Ranks())

        def engine(step: int) -> None:
            meter.fetched()
            figures, _ = ours.step(step, batch, False)
            meter.stepped(step + 1, figures, learning_rate(config, step))

        def bare(step: int) -> None:
            x = batch[0].to(theirs.device).contiguous(memory_format=torch.channels_last)
            target = {name: t.to(theirs.device) for name, t in batch[1].items()}
            theirs.optimizer.zero_grad(set_to_none=True)
            task.loss(theirs.model(x), target)["total"].backward()
            torch.nn.utils.clip_grad_norm_(theirs.model.parameters(), config.clip)
            theirs.optimizer.step()

        times: dict[str, list[float]] = {"engine": [], "bare": []}
        for turn in range(options.turns + 2):
            pair = [("engine", engine), ("bare", bare)]
            for name, step in pair if turn % 2 else reversed(pair):
                begun = time.process_time() if options.device == "cpu" else time.perf_counter()
                step(turn)
                if options.device != "cpu":
                    torch.cuda.synchronize()
                now = time.process_time() if options.device == "cpu" else time.perf_counter()
                times[name].append(now - begun)
    ours_s, theirs_s = times["engine"][2:], times["bare"][2:]
    difference = statistics.median(a - b for a, b in zip(ours_s, theirs_s, strict=True))
    middle = statistics.median(theirs_s)
    print(
        f"{options.model}, {options.crop} px, batch {options.batch}, {options.threads} thread(s), "
        f"{options.turns} turns: engine {1e3 * statistics.median(ours_s):.1f} ms, bare {1e3 * middle:.1f} ms "
        f"a step (processor time on a CPU), overhead {100 * difference / middle:+.1f} %"
    )


if __name__ == "__main__":
    main()
