"""Training curves as dvclive writes them: one TSV file per metric, without time stamps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dvclive.live import Live


class LogStep(Protocol):
    """Writes one value of each named metric, then moves to the next step."""

    def __call__(self, values: Mapping[str, float | None]) -> None: ...


@contextmanager
def curves(folder: Path) -> Iterator[LogStep]:
    """Log metrics into `folder`/plots/metrics/<name>.tsv and the last ones into `folder`/metrics.json.

    Steps count from 1; a metric whose value is None is left out.
    """
    with Live(str(folder), dvcyaml=None, save_dvc_exp=False, report=None, monitor_system=False) as live:

        def log_step(values: Mapping[str, float | None]) -> None:
            for name, value in values.items():
                if value is not None:
                    live.log_metric(name, value)
            live.next_step()

        live.step = 1
        yield log_step
        live.step -= 1
