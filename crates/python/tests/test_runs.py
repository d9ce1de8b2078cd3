"""Whole runs, what they are told, and how they end."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import bonfire
import pytest


def test_the_quickstart_trains(tmp_path):
    seen = []
    run = bonfire.train(out=tmp_path / "run", on_round=lambda row: seen.append(row["round"]))
    assert seen == list(range(1, 11)) == [row["round"] for row in run.rounds][1:] and run.rounds[0]["round"] == 0
    assert run.summary["untrained_accuracy"] == run.rounds[0]["test_accuracy"] < 0.2
    assert run.summary["final_accuracy"] == run.rounds[-1]["test_accuracy"] > 0.4
    assert {row["client"] for row in run.clients} == set(range(10))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_run_says_what_texts_are(tmp_path, small):
    run = bonfire.train(overrides=small, out=tmp_path / "run")
    texts = ["where is the nearest cash machine", "my card has not arrived", ""]
    answers = run.predict(texts)
    assert bonfire.predict(run, texts) == answers == bonfire.predict(run.folder, iter(texts))
    for row, answer in enumerate(answers):
        assert answer["row"] == row and answer["probability"] == max(answer["probabilities"].values())
        assert answer["label"] in answer["probabilities"] and abs(sum(answer["probabilities"].values()) - 1) < 1e-6
    assert run.predict([]) == []
    with pytest.raises(bonfire.ConfigError, match="give a list of texts"):
        run.predict("one text")
    with pytest.raises(bonfire.ConfigError, match=r"texts\[1\] is no text"):
        run.predict(["a", 1])
    with pytest.raises(bonfire.ConfigError, match=r"texts\[0\] is several, and this run learnt single texts"):
        run.predict([("a", "b")])
    with pytest.raises(bonfire.ConfigError, match="has no best round"):
        run.predict(["a"], best=True)
    with pytest.raises(bonfire.ConfigError, match="not a run folder|no such"):
        bonfire.predict(tmp_path / "none", ["a"])


@pytest.mark.skipif(shutil.which("bonfire") is None, reason="the program `bonfire` is not on the path")
def test_a_text_is_the_same_to_python_and_to_the_program(tmp_path, small):
    run = bonfire.train(overrides=small, out=tmp_path / "run")
    texts = ["where is the nearest cash machine", "my card has not arrived", ""]
    command = ["bonfire", "predict", run.folder, "--json", *(f"--text={text}" for text in texts)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert run.predict(texts) == [json.loads(line) for line in told.stdout.splitlines()]


def test_configurations_are_files_mappings_or_overrides(tmp_path, small):
    server = bonfire.Server(overrides=small)
    file = tmp_path / "a.toml"
    file.write_text(server.config)
    import tomllib

    assert (
        bonfire.Server(file).fingerprint
        == bonfire.Server(tomllib.loads(server.config)).fingerprint
        == server.fingerprint
    )
    with pytest.raises(bonfire.ConfigError, match="did you mean `rounds`"):
        bonfire.train(overrides={"train.round": 3})
    with pytest.raises(ValueError, match="unknown section or key `a`"):
        bonfire.train({"a": 1})
    with pytest.raises(bonfire.ConfigError, match="cannot read the configuration"):
        bonfire.train(tmp_path / "none.toml")
    with pytest.raises(bonfire.ConfigError, match="expected auto, cpu"):
        bonfire.train(device="tpu")
    with pytest.raises(bonfire.ConfigError, match="clients of the|no client 12"):
        bonfire.Site(shards=[12])
    with pytest.raises(bonfire.ConfigError, match="named twice"):
        bonfire.Site(shards=[1, 1])
    with pytest.raises(bonfire.BonfireError, match="not an empty folder"):
        bonfire.train(out=tmp_path)


def test_overrides_may_be_sections_and_numpys_numbers_and_change_nothing_else(small):
    import numpy as np

    plain = bonfire.Server(overrides=small | {"train.epochs": 2, "train.lr_b": 1 / 3})
    nested = {key: value for key, value in small.items() if not key.startswith("train.")}
    train = {"rounds": np.int64(3), "lr_a": small["train.lr_a"], "epochs": np.int32(2), "lr_b": np.float64(1 / 3)}
    other = bonfire.Server(overrides=nested | {"train": train})
    # Keys of [train] that the mapping does not name are as they were.
    assert other.config == plain.config and other.fingerprint == plain.fingerprint
    assert "lr_b = 0.3333333333333333\n" in other.config
    lists = bonfire.Server(overrides=small | {"train.betas": np.array([0.9, 0.95])})
    assert lists.config == bonfire.Server(overrides=small | {"train.betas": [0.9, 0.95]}).config
    for bad in ({1, 2}, object(), None, 2**70):
        with pytest.raises(bonfire.ConfigError, match=r"the override of train\.rounds has a value that no configuration has"):
            bonfire.Server(overrides={"train.rounds": bad})


def test_help_tells_of_runs():
    assert "mapping of sections" in bonfire.train.__doc__ and "side by side" in bonfire.compare.__doc__
    assert "round 0 is the untrained model" in bonfire.Run.rounds.__doc__


def test_compare_asks_for_a_file_before_it_looks_at_a_mapping():
    with pytest.raises(bonfire.ConfigError, match="reads its configuration from a file"):
        bonfire.compare({"data": {"path": "x"}})


def test_a_failing_listener_ends_the_run_after_its_round(tmp_path, small):
    def fail(row):
        raise RuntimeError(f"enough after {row['round']}")

    with pytest.raises(RuntimeError, match="enough after 1"):
        bonfire.train(overrides=small | {"train.rounds": 50}, out=tmp_path / "run", on_round=fail)
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 2 <= len(rows) <= 4


def test_other_threads_go_on_meanwhile(tmp_path, small):
    ticks, done = [], threading.Event()

    def tick():
        while not done.wait(0.01):
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.monotonic()
    bonfire.train(overrides=small, out=tmp_path / "run")
    took = time.monotonic() - began
    done.set()
    thread.join()
    longest = max(b - a for a, b in itertools.pairwise(ticks))
    assert longest < took / 2, f"the interpreter was held for {longest:.2f} of {took:.2f} s"


def test_ctrl_c_is_a_keyboard_interrupt(tmp_path):
    code = (
        # A job in the background of a shell begins with the signal ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import bonfire\n"
        f"bonfire.train(overrides={{'train.rounds': 500}}, out={str(tmp_path / 'run')!r}, "
        "on_round=lambda r: print(r['round'], flush=True))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "1\n"
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode != 0 and "KeyboardInterrupt" in errors
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # The first row is the untrained model.
    assert [row["round"] for row in rows] == list(range(summary["rounds"] + 1)) and len(rows) > 1
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_strategies_are_compared(tmp_path, small):
    rows = bonfire.compare(
        strategies=["lora-a2", "fedit"],
        seeds=[0],
        ranks=[2],
        out=tmp_path / "compare",
        overrides=small | {"train.rounds": 1},
    )
    assert [row["strategy"] for row in rows] == ["lora-a2", "fedit"] and all(row["status"] == "done" for row in rows)
    assert (tmp_path / "compare" / "table.md").is_file()
    with pytest.raises(bonfire.ConfigError, match="fedavg"):
        bonfire.compare(strategies="fedavg")


def test_two_runs_in_two_threads_keep_their_own_logs(tmp_path, small):
    # A key of another strategy is left out with a note, which is this run's alone.
    strategies = {"a": "fedit", "b": "ffa-lora"}
    failed = []

    def train(name):
        try:
            overrides = small | {"train.rounds": 2 if name == "a" else 3, "strategy.name": strategies[name]}
            bonfire.train(overrides=overrides, out=tmp_path / name)
        except bonfire.BonfireError as error:
            failed.append(error)

    threads = [threading.Thread(target=train, args=(name,)) for name in strategies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for name, rounds, strategy in [("a", 2, "fedit"), ("b", 3, "ffa-lora")]:
        log = (tmp_path / name / "run.log").read_text().splitlines()
        ended = [line for line in log if " INFO  round " in line]
        assert len(ended) == rounds and all(f"of {rounds} " in line for line in ended), log
        assert any(f"the clients of {strategy} all hold" in line for line in log), log
        assert not any(other in line for other in strategies.values() if other != strategy for line in log), log


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_the_program_is_called_where_it_is_installed(tmp_path):
    def call(path):
        return subprocess.run(
            [sys.executable, "-m", "bonfire", "train", "a b.toml"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PATH": str(path)},
        )

    program = tmp_path / "bonfire"
    program.write_text("#!/bin/sh\necho $# $2\nexit 3\n")
    program.chmod(0o755)
    told = call(tmp_path)
    assert (told.returncode, told.stdout) == (3, "2 a b.toml\n"), told.stderr
    missing = call(tmp_path / "none")
    assert missing.returncode == 2 and "bonfire-lora-cli" in missing.stderr


def test_the_stubs_say_what_is_there():
    pytest.importorskip("mypy")
    told = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "bonfire"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout
