"""Submits trainings over configs and seeds through submitit, to Slurm or to this machine.

    python cluster/submit.py --runs runs/sweep --config configs/vp/digits.py configs/ve/digits.py --seed 0 1 --dry-run
    python cluster/submit.py --runs runs/sweep --config configs/vp/digits.py --seed 0 1 --partition gpu --hours 4
    python cluster/submit.py --runs runs/sweep --config configs/vp/digits.py --cluster debug --set training.steps=20

``--cluster debug`` runs the jobs one after the other in this process, and ``--cluster local`` in processes of this machine.
Before the time limit, and when Slurm preempts a job, submitit puts it back into the queue. It resumes from its last checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import submitit

from scoresde.experiment import Experiment, Workdir, apply_overrides, load_config, train


@dataclass(frozen=True)
class Training:
    """One job.

    Args:
        config: The config file.
        workdir: The work folder.
        overrides: Values by dotted key, as on the command line.
    """

    config: str
    workdir: str
    overrides: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> str:
        """Train to the last step, from the last checkpoint if there is one. Returns the work folder."""
        config = load_config(self.config)
        apply_overrides(config, self.overrides)
        train(Experiment.from_config(config), Workdir(self.workdir))
        return self.workdir

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The job that submitit submits in place of one that Slurm stops: the same one."""
        return submitit.helpers.DelayedSubmission(self)


def jobs(runs: Path, configs: Sequence[str], seeds: Sequence[int], settings: Sequence[str]) -> list[Training]:
    """A job for each config and seed."""
    overrides = dict(one.split("=", 1) for one in settings)
    return [
        Training(
            config,
            str(runs / f"{Path(config).parent.name}-{Path(config).stem}-seed{seed}"),
            {**overrides, "seed": str(seed)},
        )
        for config in configs
        for seed in seeds
    ]


def main(arguments: Sequence[str] | None = None) -> list[submitit.Job[str]]:
    """Submit the jobs, or print them with ``--dry-run``. Returns the jobs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of the work folders and of submitit's logs")
    parser.add_argument("--config", nargs="+", required=True, help="config files")
    parser.add_argument("--seed", nargs="+", type=int, default=[0], help="seeds")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="values of the config")
    parser.add_argument("--cluster", choices=("slurm", "local", "debug"), default="slurm", help="where the jobs run")
    parser.add_argument("--partition", help="Slurm's partition")
    parser.add_argument("--hours", type=float, default=4.0, help="time limit of a job")
    parser.add_argument("--dry-run", action="store_true", help="print the jobs")
    options = parser.parse_args(arguments)
    made = jobs(options.runs, options.config, options.seed, options.set)
    if options.dry_run:
        for job in made:
            print(f"{job.workdir}: {job.config} {' '.join(f'{k}={v}' for k, v in job.overrides.items())}")
        return []
    executor = submitit.AutoExecutor(options.runs / "submitit", cluster=options.cluster, slurm_max_num_timeout=50)
    executor.update_parameters(
        name="scoresde", timeout_min=int(60 * options.hours), gpus_per_node=1 if options.cluster == "slurm" else 0,
        cpus_per_task=8 if options.cluster == "slurm" else 1, slurm_partition=options.partition,
    )  # fmt: skip
    with executor.batch():  # one job array
        submitted = [executor.submit(job) for job in made]
    for job in submitted:
        print(f"job {job.job_id}: {job.paths.stdout}")
    return submitted


if __name__ == "__main__":
    for job in main():
        print(job.result())
