"""`icclip eval`."""

from __future__ import annotations

from typing import Any

import typer  # noqa: TC002 # Typer reads the annotations at run time

from icclip.commands.declared import Json, with_options
from icclip.config import EvalConfig
from icclip.console import Reporter


@with_options(EvalConfig)
def evaluate(said: Any, context: typer.Context, *, json: Json = False) -> None:
    """Measure retrieval, with 95 % intervals, on a run's own held-out data or on the data that --dataset names.

    With --zero-shot, measure classification of a folder of images per class by the names of the folders.
    """
    from icclip.evaluating.request import eval_config
    from icclip.evaluating.run import evaluate as run

    reporter = Reporter.for_this_process(json=json)
    if said.get("zero_shot"):
        from icclip.zero_shot.request import zero_shot_config
        from icclip.zero_shot.run import measure_zero_shot

        reporter.deliver(measure_zero_shot(zero_shot_config(context.obj, said), context.obj, reporter))
    else:
        reporter.deliver(run(eval_config(context.obj, said), context.obj, reporter))
