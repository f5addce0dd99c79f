"""The benchmarks at their short sizes: `python -m benchmarks`. Each is a script of its own with more options.

Left out, because they need TensorFlow for minutes: detectability.py, discofacegan.py and face_actors.py; and stages.py
and sharded_head.py, which take minutes too. memory.py measures any job.
"""

import subprocess
import sys

SHORT = {
    "generation": ["--people", "6", "--repeats", "3"],
    "alignment": ["--count", "32", "--repeats", "3"],
    "augmentation": ["--repeats", "3"],
    "unified_negatives": ["--batches", "256", "1024", "--repeats", "5"],
    "evaluation": [],
    "ingest": ["--steps", "40"],
    "importing": ["--images", "4000"],
    "large_dataset": ["--gigabytes", "0.2"],
}


def main() -> None:
    """Run them one after the other; exit 1 if one fails."""
    failed = []
    for name, arguments in SHORT.items():
        print(f"── {name} ──", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments])
        if done.returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
