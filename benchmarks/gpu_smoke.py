"""Does aprnb keep its promises on this GPU, and how fast is it? One JSON line per check; no check stops the others.

    python benchmarks/gpu_smoke.py [--out gpu.jsonl] [--only methods,resume] [--skip train_large] [--budget 480]
    python benchmarks/gpu_smoke.py --device cpu --tiny        the same code with small models, as the tests run it

`smoke/report.py` says what a line contains. The exit status is 1 where a check failed. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(1, str(Path(__file__).parent.parent))  # a checkout that is not installed

from smoke import large, numbers, runs, survival
from smoke.report import Smoke

CHECKS = {**numbers.CHECKS, **large.CHECKS, **runs.CHECKS, **survival.CHECKS}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda:N, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="small models in place of the 8B shape")
    parser.add_argument("--only", default="", help=f"some of {','.join(CHECKS)}")
    parser.add_argument("--skip", default="")
    parser.add_argument("--budget", type=float, default=1200, help="seconds after which no check begins")
    parser.add_argument("--out", type=Path, help="append the lines to this file, too")
    given = parser.parse_args()
    unknown = {*given.only.split(","), *given.skip.split(",")} - {"", *CHECKS}
    if unknown:
        parser.error(f"no check is called {', '.join(sorted(unknown))}; there are {', '.join(CHECKS)}")
    return given


def main() -> int:
    import torch

    given = arguments()
    only, skipped = (set(filter(None, names.split(","))) for names in (given.only, given.skip))
    out = given.out.open("a", encoding="utf-8") if given.out else None
    with tempfile.TemporaryDirectory(prefix="aprnb-smoke-") as folder:
        smoke = Smoke(torch.device(given.device), given.tiny, Path(folder), given.budget, out)
        for name in smoke.while_time("checks", [name for name in CHECKS if name in (only or CHECKS)]):
            if name in skipped:
                continue
            with smoke.case(f"{name}.whole"):
                CHECKS[name](smoke)
        smoke.say("end", "info", counts=dict(smoke.counts))
    if out:
        out.close()
    return bool(smoke.counts.get("FAIL", 0) + smoke.counts.get("error", 0))


if __name__ == "__main__":
    sys.exit(main())
