"""The scripts of ``configs/hardware``, with commands that only note how they were called in place of the real ones."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

HARDWARE = Path(__file__).resolve().parents[2] / "configs" / "hardware"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def run(tmp_path):
    """Runs a script with stand-ins for commands, each a line of shell; returns the status and what they noted."""

    def start(script, *words, **commands):
        notes = tmp_path / "notes"
        notes.touch()
        (tmp_path / "bin").mkdir(exist_ok=True)
        for name, line in commands.items():
            path = tmp_path / "bin" / name
            path.write_text(f'#!/bin/bash\necho "{name} $*" >> {notes}\n{line}\n', encoding="utf-8")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
        command = ["bash", str(HARDWARE / script), *words]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, check=False)
        return ended.returncode, notes.read_text(encoding="utf-8").splitlines()

    return start


FIT = "hero_pl fit --config a.yaml --trainer.logger.init_args.version 77 --resume auto"


@pytest.mark.parametrize(("status", "again"), [(0, False), (1, False), (3, False), (138, True), (143, True)])
def test_a_job_that_a_signal_ended_is_queued_again_and_no_other(status, again, run):
    ended, notes = run(
        "slurm.sbatch", "--config", "a.yaml", srun='shift 2; exec "$@"', scontrol="", hero_pl=f"exit {status}"
    )
    assert ended == status
    assert notes[1] == FIT  # a job that is queued again keeps its number, so it resumes this run
    assert notes[2:] == ["scontrol requeue 77"] * again


def test_servers_are_ended_with_the_training_and_its_status_is_passed_on(run, tmp_path):
    printed = "echo '# http://localhost:8000: new weights'; echo A=1 vllm serve 8000"
    hero_pl = f"case $1 in serve-command) {printed} ;; fit) exit 143 ;; esac"
    vllm = f"echo $$ > {tmp_path}/pid; exec sleep 300"
    ended, notes = run(
        "with_servers.sh", "4", "--config", "a.yaml", hero_pl=hero_pl, vllm=vllm, curl=f"[ -s {tmp_path}/pid ]"
    )
    assert ended == 143
    assert notes[0] == "hero_pl serve-command --devices 4 --memory 0.9 --config a.yaml"
    assert "vllm serve 8000" in notes
    assert notes[-1] == "hero_pl fit --config a.yaml"
    pid = (tmp_path / "pid").read_text(encoding="utf-8").strip()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("USR1", 138)])
def test_bug_834_a_signal_while_servers_start_ends_them_and_begins_no_training(name, status, run, tmp_path):
    hero_pl = "case $1 in serve-command) echo '# http://localhost:8000: new weights'; echo vllm serve 8000 ;; esac"
    pid, sent = tmp_path / "pid", tmp_path / "sent"
    vllm = f"echo $$ > {pid}; exec /bin/sleep 300"
    curl = f"[ -s {pid} ] || exit 7; [ -e {sent} ] && exit 0; touch {sent}; kill -{name} $PPID; exit 7"
    ended, notes = run("with_servers.sh", "4", hero_pl=hero_pl, vllm=vllm, curl=curl, sleep="/bin/sleep 0.01")
    assert ended == status
    assert not [line for line in notes if "fit" in line]
    assert not Path(f"/proc/{pid.read_text(encoding='utf-8').strip()}").exists()


def test_a_server_that_ends_before_it_answers_ends_the_script(run, tmp_path):
    hero_pl = "echo '# http://localhost:8000: new weights'; echo vllm serve 8000"
    ended, notes = run("with_servers.sh", "4", "--config", "a.yaml", hero_pl=hero_pl, vllm="exit 1", curl="exit 7")
    assert ended == 1
    assert not [line for line in notes if "fit" in line]
    assert (tmp_path / "vllm-localhost_8000.log").exists()
