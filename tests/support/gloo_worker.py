"""One rank of the process pool that the `gloo_pool` fixture starts: runs functions of test files in turn.

    python gloo_worker.py RANK RANKS STORE_FILE

Reads pickled (test file, function name, arguments) from stdin, answers (True, result) or (False, traceback), pickled.
"""

import datetime
import importlib.util
import pickle
import sys
import traceback

from facelib.utils.process import look_for_garbage_less


def main() -> None:
    look_for_garbage_less()
    import torch
    import torch.distributed as dist

    rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # a print in a test must not end up between the answers
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=datetime.timedelta(minutes=10)
    )
    modules: dict = {}
    while True:
        try:
            file, function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            break
        try:
            if file not in modules:
                specification = importlib.util.spec_from_file_location(f"test_file_{len(modules)}", file)
                modules[file] = importlib.util.module_from_spec(specification)
                specification.loader.exec_module(modules[file])
            answer = (True, getattr(modules[file], function)(*arguments))
        except Exception:
            answer = (False, f"rank {rank}:\n{traceback.format_exc()}")
        pickle.dump(answer, answers)
        answers.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
