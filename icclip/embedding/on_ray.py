"""The shards of a corpus on a cluster of Ray: Ray Data hands them to actors, each of which holds one encoder.

A row of the dataset is the number of a shard, so that little more than numbers travels: an actor reads the inputs of its
shard, embeds them and writes its files. It takes the next shard when it has finished one, so no more is read than is
embedded. A shard whose actor dies is given to another one, which makes it again from the beginning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icclip.config import EmbedConfig
from icclip.console import Reporter
from icclip.embedding.layout import Counts
from icclip.embedding.worker import LazyEncoder, ShardWorker
from icclip.errors import DataError, UsageError
from icclip.plugins.registry import Registry


@dataclass(frozen=True)
class RayEngine:
    """A cluster, and what each actor gets of it."""

    actors: int
    cpus: float
    gpus: float

    @classmethod
    def started(cls, config: EmbedConfig, reporter: Reporter) -> RayEngine:
        """Connect to a cluster, or start one on this machine.

        Raises:
            UsageError: there is no cluster at the address, or it has no room for the actors.
            ModuleNotFoundError: Ray is not installed, which the command line explains.
        """
        import ray
        import ray.data

        if not ray.is_initialized():
            try:
                ray.init(
                    address=config.address or "local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UsageError(f"--address {config.address}: {' '.join(str(error).split()):.200}") from error
        resources = ray.cluster_resources()
        engine = cls(_actors(config, resources), config.actor_cpus, config.actor_gpus)
        reporter.note(f"Ray: {engine.actors} actors with {engine.cpus:g} CPUs and {engine.gpus:g} GPUs each")
        return engine

    def __call__(self, worker: ShardWorker, shards: Sequence[int]) -> Iterator[tuple[int, Counts]]:
        """Embed the shards, and give each with what it holds when it is finished. Raises what the user can mend."""
        if not shards:
            return
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        done = rows.map_batches(
            _Actor,
            fn_constructor_args=(self._for_actors(worker),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.actors, len(shards)), max_tasks_in_flight_per_actor=1),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        for row in done.iter_rows():
            if row["problem"]:
                raise DataError(row["problem"])
            yield int(row["shard"]), Counts(int(row["rows"]), int(row["failed"]))

    def _for_actors(self, worker: ShardWorker) -> ShardWorker:
        """Without processes below the actor's own, and with as many threads as it was given CPUs."""
        config = worker.encoder.config
        bundle = Registry.from_environment().target_of(Path(config.checkpoint), lambda _: None) is not None
        if bundle:
            config = dataclasses.replace(config, threads=config.threads or max(1, round(self.cpus)))
        else:
            config = dataclasses.replace(config, workers=config.workers or 0)
        config = dataclasses.replace(config, checkpoint=worker.manifest.checkpoint)
        return dataclasses.replace(worker, encoder=LazyEncoder(config))


class _Actor:
    """Ray makes one of these in each actor."""

    def __init__(self, worker: ShardWorker) -> None:
        self._worker = worker

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self._worker(batch)


def _actors(config: EmbedConfig, resources: dict[str, float]) -> int:
    """How many actors there are, after checking that they fit: Ray would wait for ever, silently, for what is not there."""
    needed = {"CPU": config.actor_cpus, "GPU": config.actor_gpus}
    room = [int(resources.get(name, 0) / share) for name, share in needed.items() if share > 0]
    most = min(room, default=config.actors or 1)
    wanted = config.actors or max(1, most)
    if wanted > most:
        has = ", ".join(f"{resources.get(name, 0):g} {name}s" for name in needed)
        raise UsageError(
            f"the cluster has {has}: no room for {wanted} actors with --actor-cpus {config.actor_cpus:g} and --actor-gpus "
            f"{config.actor_gpus:g}; ask for fewer, or for less"
        )
    return wanted
