"""The scripts in cluster/, under bash with Slurm's variables and with functions in place of srun and scontrol."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from scoresde.experiment import Workdir, train
from scoresde.experiment.folder.checkpoint import last_checkpoint, list_checkpoints
from tests.experiment.conftest import ROOT, called
from tests.experiment.test_loggers import small
from tests.experiment.training import same

CALLED = 'echo "RANK=${RANK:-} WORLD_SIZE=${WORLD_SIZE:-} LOCAL_RANK=${LOCAL_RANK:-} $0 $*" >> "$CALLS"\n'
"""What programs do in place of the real ones: record the call, and end with the code $CODE."""


class Slurm:
    """A place where the scripts run. ``calls`` are the programs that srun started, ``requeued`` the jobs that were put back."""

    def __init__(self, folder):
        self.folder, self.programs = folder, folder / "programs"
        self.programs.mkdir()
        for name in ("python", "torchrun"):
            self.program(name, CALLED + 'eval "${ACT:-}"\nexit "${CODE:-0}"\n')

    def program(self, name, text):
        (self.programs / name).write_text("#!/bin/bash\n" + text)
        (self.programs / name).chmod(0o755)

    def environment(self, variables):
        functions = {
            "BASH_FUNC_srun%%": '() { "$@" & echo $! > "$FOLDER/pid"; wait $!; }',
            "BASH_FUNC_scontrol%%": '() { if [[ $1 = show ]]; then printf "node1\\nnode2\\n"; '
                                    'else echo "$2" >> "$FOLDER/requeued"; fi; }',
        }  # fmt: skip
        return {
            **os.environ, "PATH": f"{self.programs}:{os.environ['PATH']}", "FOLDER": str(self.folder), "OMP_NUM_THREADS": "1",
            "CALLS": str(self.folder / "calls"), "SLURM_JOB_ID": "77", "PYTHONPATH": str(ROOT), **functions, **variables,
        }  # fmt: skip

    def start(self, script, *arguments, **variables):
        return subprocess.Popen(
            ["bash", f"cluster/{script}.sbatch", *map(str, arguments)], env=self.environment(variables), cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, script, *arguments, **variables):
        """Returns the exit code and the output."""
        process = self.start(script, *arguments, **variables)
        out, _ = process.communicate(timeout=300)
        return process.returncode, out

    def lines(self, name):
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def slurm(tmp_path):
    return Slurm(tmp_path)


class TestTrain:
    def test_one_gpu_and_several(self, slurm):
        assert slurm.run("train", "runs/x", "--config", "c.py", SLURM_GPUS_ON_NODE="1")[0] == 0
        assert (
            slurm.run(
                "train",
                "runs/x",
                "--config",
                "c.py",
                SLURM_GPUS_ON_NODE="4",
                SLURM_NNODES="2",
                SLURM_JOB_NODELIST="n[1-2]",
            )[0]
            == 0
        )
        one, several = (line.partition("programs/")[2] for line in slurm.lines("calls"))
        assert one == "python -m scoresde train --workdir runs/x --config c.py"
        assert several == (
            "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-id 77 --rdzv-backend c10d --rdzv-endpoint node1:29500 "
            "-m scoresde train --workdir runs/x --config c.py"
        )
        assert slurm.lines("requeued") == []

    @pytest.mark.parametrize(
        "code, progress, restarts, ends, requeued",
        [
            (0, True, 0, 0, []), (2, True, 0, 2, []), (130, False, 0, 0, ["77"]), (143, False, 3, 0, ["77"]),
            (1, True, 0, 0, ["77"]), (1, False, 0, 1, []), (137, True, 0, 0, ["77"]), (130, True, 50, 130, []),
        ],
    )  # fmt: skip
    def test_back_into_the_queue(self, slurm, code, progress, restarts, ends, requeued):
        """After a signal always, after an error only if there is a new checkpoint, and not more often than allowed."""
        act = (
            f"mkdir -p {slurm.folder}/run/checkpoints; touch {slurm.folder}/run/checkpoints/step-000000002.safetensors"
        )
        found, out = slurm.run(
            "train",
            slurm.folder / "run",
            CODE=str(code),
            ACT=act if progress else "",
            SLURM_RESTART_COUNT=str(restarts),
        )
        assert (found, slurm.lines("requeued")) == (ends, requeued), out

    @pytest.mark.long
    def test_a_run_that_slurm_stops_is_resumed_with_the_same_result(self, slurm):
        """The first job gets SIGTERM after its first checkpoint, as before its time limit; the second one ends the run."""
        slurm.program("python", f'exec {sys.executable} "$@"\n')
        network = "{'name': 'MLP', 'width': 8, 'depth': 1}"
        settings = {
            "training.steps": 300, "training.batch_size": 8, "training.checkpoint_every": 50, "training.log_every": 100,
            "training.preview_every": 0, "network": network, "model": "{'prediction': 'noise'}", "device": "cpu",
        }  # fmt: skip
        arguments = [
            "--config",
            "configs/vp/digits.py",
            *(f"--config.{key}={value}" for key, value in settings.items()),
        ]
        job = slurm.start("train", slurm.folder / "run", *arguments)
        end = time.monotonic() + 200
        while not list_checkpoints(slurm.folder / "run" / "checkpoints"):
            assert job.poll() is None and time.monotonic() < end
            time.sleep(0.005)
        os.kill(int((slurm.folder / "pid").read_text()), signal.SIGTERM)
        out, _ = job.communicate(timeout=200)
        assert job.returncode == 0 and "code 130, back into the queue" in out, out
        at = last_checkpoint(slurm.folder / "run" / "checkpoints").step
        assert 50 <= at < 300 and slurm.lines("requeued") == ["77"]
        code, out = slurm.run("train", slurm.folder / "run", *arguments, SLURM_RESTART_COUNT="1")
        assert code == 0 and f"resumed from step-{at:09d}" in out and "run: complete" in out, out
        values = {key.replace(".", "__"): value for key, value in settings.items()}
        train(small(training__schedule="cosine", **values), Workdir(slurm.folder / "whole"))
        whole, resumed = (last_checkpoint(slurm.folder / name / "checkpoints").tensors for name in ("whole", "run"))
        assert same(whole, resumed)


class TestArray:
    def test_a_task_for_each_config_and_seed(self, slurm):
        for task in range(6):
            assert slurm.run("array", "runs", "--config.device=cpu", SLURM_ARRAY_TASK_ID=str(task))[0] == 0
        found = [line.partition("scoresde ")[2] for line in slurm.lines("calls")]
        assert found == [
            f"train --workdir runs/{process}-digits-seed{seed} --config configs/{process}/digits.py --config.seed={seed} "
            "--config.device=cpu"
            for process, seed in itertools.product(("vp", "ve", "subvp"), (0, 1))
        ]
        for config in ("vp", "ve", "subvp"):
            assert (ROOT / "configs" / config / "digits.py").is_file()
        code, out = slurm.run("array", "runs", SLURM_ARRAY_TASK_ID="6")
        assert code == 2 and "there are 3 configs and 2 seeds" in out


class TestShare:
    def test_tasks_share_the_batches(self, slurm, finished_run, tmp_path, monkeypatch):
        """An array that starts at 3. The calls that the tasks make draw all samples, and the last one combines them."""
        count = "--config.sampling.count=7"
        for task in (3, 4):
            array = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}
            assert slurm.run("share", "sample", "--workdir", finished_run, count, **array)[0] == 0
        lines = slurm.lines("calls")
        assert [line.partition(" /")[0] for line in lines] == [
            "RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", "RANK=1 WORLD_SIZE=2 LOCAL_RANK=0",
        ]  # fmt: skip
        subprocess.run(["cp", "-r", finished_run, tmp_path / "run"], check=True)
        said = []
        for line in lines:
            for pair in line.split()[:3]:
                monkeypatch.setenv(*pair.split("="))
            done = called("sample", "--workdir", tmp_path / "run", count)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
        assert "batches of other ranks remain" in said[0] and "7 samples by predictor-corrector" in said[1]

    def test_a_stopped_task_goes_back(self, slurm):
        array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "1"}
        assert slurm.run("share", "sample", CODE="130", **array)[0] == 0 and slurm.lines("requeued") == ["77"]
        assert slurm.run("share", "sample", CODE="2", **array)[0] == 2 and slurm.lines("requeued") == ["77"]


@pytest.mark.parametrize("script", ["train", "array", "share"])
def test_slurm_reads_the_options_of_a_script(script):
    """sbatch reads #SBATCH lines up to the first command."""
    lines = (ROOT / "cluster" / f"{script}.sbatch").read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line for line in lines[:first] if line.startswith("#SBATCH ")]
    assert not any(line.startswith("#SBATCH") for line in lines[first:]) and lines[0] == "#!/bin/bash"
    assert {"#SBATCH --requeue", "#SBATCH --open-mode append"} <= set(options)
    assert any(line.startswith("#SBATCH --signal TERM@") for line in options)


class TestSubmitit:
    @pytest.fixture
    def submit(self):
        pytest.importorskip("submitit", reason="the package submitit is not installed")
        return importlib.import_module("cluster.submit")

    def arguments(self, tmp_path, *more):
        values = ("training.steps=2", "network={'name': 'MLP', 'width': 8, 'depth': 1}", "model={'prediction': 'noise'}",
                  "training.preview_every=0")  # fmt: skip
        return [
            "--runs",
            str(tmp_path / "runs"),
            "--config",
            str(ROOT / "configs/vp/digits.py"),
            "--seed",
            "0",
            "1",
            "--set",
            *values,
            *more,
        ]

    def test_dry_run(self, submit, tmp_path, capsys):
        assert submit.main(self.arguments(tmp_path, "--dry-run")) == [] and not (tmp_path / "runs").exists()
        out = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in out] == [f"{tmp_path}/runs/vp-digits-seed{seed}" for seed in (0, 1)]
        assert "training.steps=2" in out[1] and out[1].endswith("seed=1")

    @pytest.mark.parametrize("cluster", ["debug", pytest.param("local", marks=pytest.mark.long)])
    def test_jobs_train(self, submit, tmp_path, cluster):
        made = submit.main(self.arguments(tmp_path, "--cluster", cluster))
        folders = [job.result() for job in made]
        assert folders == [f"{tmp_path}/runs/vp-digits-seed{seed}" for seed in (0, 1)]
        weights = [last_checkpoint(Workdir(folder).checkpoints) for folder in folders]
        assert [one.step for one in weights] == [2, 2] and not same(weights[0].tensors, weights[1].tensors)

    def test_a_stopped_job_is_submitted_again(self, submit, tmp_path):
        """submitit calls ``checkpoint`` and submits what it returns; a complete run is not trained again."""
        job = submit.jobs(tmp_path, [str(ROOT / "configs/vp/digits.py")], [3], ["training.steps=5"])[0]
        again = job.checkpoint()
        assert again.function == job and again.args == () and job.overrides == {"training.steps": "5", "seed": "3"}
