# SPDX-License-Identifier: BSD-3-Clause
"""Work in several processes: independent jobs over Dask, and locks between processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from pathlib import Path

__all__ = ["locked", "over_dask"]

_CONNECT_SECONDS, _WORKERS_SECONDS = 10, 60
_IGNORE_CTRL_C = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # is for this one
_SPAWN = "distributed.nanny.pre-spawn-environ"
# Dask has malloc give memory back at once; a trial's 20 MB would be fresh pages each time.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**28), "MALLOC_MMAP_THRESHOLD_": str(2**25)}


def over_dask(
    function: Callable, jobs: Sequence[tuple], workers: int, scheduler: str | None
) -> Iterator[tuple[tuple, object, BaseException | None]]:
    """Call a function with each job's arguments, in processes of one thread each.

    Parameters
    ----------
    function : callable
        Of a module that the workers can import.
    jobs : sequence of tuple
        Arguments of each call.
    workers : int
        Processes to start, if there is no scheduler.
    scheduler : str or None
        Address of a Dask scheduler whose workers are used instead.

    Yields
    ------
    tuple of (job, result, error)
        As they get ready; one of result and error is None. A worker that dies is replaced and its
        job given to another; a job that killed four has failed.

    Raises
    ------
    ImportError
        If Dask is missing, or something that a job needs.
    OSError
        If the scheduler cannot be reached or has no workers.
    """
    try:
        import dask
        from dask.distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise ImportError(
            "Work in several processes needs Dask: pip install 'eegfast[store]'."
        ) from error
    with ExitStack() as stack:
        if scheduler is None:
            config = {
                _SPAWN: {**dask.config.get(_SPAWN, {}), **_MALLOC},
                "distributed.scheduler.worker-saturation": 1.0,  # no job waits where another kills
            }
            stack.enter_context(dask.config.set(config))
            scheduler = stack.enter_context(
                LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:0",
                    silence_logs="CRITICAL",
                    preload=[_IGNORE_CTRL_C],
                )
            )
            client = stack.enter_context(Client(scheduler))
        else:
            client = stack.enter_context(Client(scheduler, timeout=_CONNECT_SECONDS))
            try:
                client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
            except TimeoutError as error:
                raise OSError(f"the Dask scheduler {scheduler} has no workers") from error
        futures = {client.submit(_in_one_thread, function, *j, pure=False): j for j in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result(), None
            except ImportError:
                raise
            except (Exception, CancelledError) as error:
                yield futures[future], None, error


def _in_one_thread(function: Callable, *job):
    import torch

    torch.set_num_threads(1)
    return function(*job)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, which goes away with the process that holds it.

    Parameters
    ----------
    path : Path
        The file.
    wait : bool, default True
        For another process that has it.

    Yields
    ------
    bool
        False if another process has it and `wait` is False.
    """
    import fcntl

    how = fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, how)
            # Whoever held it before has removed the file: then this one is nobody's lock any more.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            yield False
            return
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
