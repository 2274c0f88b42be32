"""End a process together with the one that started it, even if that one is killed."""

import os
import threading
import time

PARENT = "MARN_PARENT_PROCESS"
"""Environment variable with the process id of the process that started a further one to train."""

_LOOK = 0.2  # seconds between two looks at the parent


def end_with_parent(parent: int | None = None) -> None:
    """End this process as soon as its parent has ended.

    Args:
        parent: number of the process that started this one; None where multiprocessing did, which
            knows, and may have used a server for it.
    """
    from multiprocessing import parent_process  # no burden for what is not started so

    starter = parent_process() if parent is None else None

    def watch() -> None:
        if starter is not None:
            starter.join()
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
