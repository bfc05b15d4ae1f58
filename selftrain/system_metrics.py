"""What the machine does while a stage works: CPU, memory, disk, network and GPUs, by mlflow's eyes.

mlflow's own thread gives up for good at the first request that fails; this one logs as the stage
does, so that an outage of the store loses nothing.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from mlflow.environment_variables import (
    MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING,
    MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
)
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from selftrain.errors import Refused

_SECONDS = 10.0
"""Between two samples, if MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL does not say."""

Log = Callable[[Mapping[str, float], int], None]
"""Takes metrics and their step."""

_logger = logging.getLogger(__name__)


@contextmanager
def system_metrics(log: Log) -> Iterator[None]:
    """Log `system/...` while the block works, by a thread; its steps count from 0."""
    is_over = threading.Event()
    thread = threading.Thread(target=_watch, args=(log, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _watch(log: Log, is_over: threading.Event) -> None:
    seconds = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or _SECONDS)
    samples = int(MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING.get() or 1)
    step = 0
    try:
        monitors = _monitors()
        while True:
            for _ in range(samples):
                for monitor in monitors:
                    monitor.collect_metrics()
                if is_over.wait(seconds):
                    return
            metrics: dict[str, float] = {}
            for monitor in monitors:
                metrics |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            log({f"system/{name}": value for name, value in metrics.items()}, step)
            step += 1
    except Refused:
        return  # the stage's next message is refused too, and it says so
    except Exception as error:  # the stage is not to end for it, and says itself what is wrong
        _logger.warning("the machine's metrics are logged no more: %s", error)


def _monitors() -> list[BaseMetricsMonitor]:
    found: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(ImportError, RuntimeError):  # there is none
        found.append(GPUMonitor())
    return found
