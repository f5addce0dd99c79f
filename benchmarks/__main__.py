"""All short benchmarks: `python -m benchmarks`. Each is also a script with more options.

Not included: detectability.py, discofacegan.py, face_actors.py, stages.py and sharded_head.py (they take minutes), and
memory.py, which measures any job, and gpu.py, which is for a GPU.
"""

import subprocess
import sys

SHORT = {
    "generation": ["--identities", "6", "--repeats", "3"],
    "alignment": ["--count", "32", "--repeats", "3"],
    "augmentation": ["--repeats", "3"],
    "unified_negatives": ["--batches", "256", "1024", "--repeats", "5"],
    "evaluation": [],
    "ingest": ["--steps", "40"],
    "importing": ["--images", "4000"],
    "large_dataset": ["--gigabytes", "0.2"],
}


def main() -> None:
    """Run every benchmark; exit with an error if one fails."""
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
