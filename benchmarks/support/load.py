"""A locustfile: one kind of request, again as soon as it is answered. `benchmarks/serving.py` starts it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

from locust import FastHttpUser, constant, task

TASK = json.loads(Path(os.environ["BODIES"]).read_text(encoding="utf-8"))[os.environ["TASK"]]


class Caller(FastHttpUser):
    """Somebody who waits for each answer."""

    wait_time = constant(0)

    @task
    def ask(self) -> None:
        """One request."""
        self.client.post(TASK["path"], json=random.choice(TASK["bodies"]))
