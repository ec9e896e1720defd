"""The processes of a run: one, unless a launcher has started more."""

from __future__ import annotations

from puregen_transforms.whole_sets.processes import ONE_PROCESS, Processes, started_processes


def test_without_a_launcher_there_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert started_processes() is ONE_PROCESS
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert started_processes("cpu") is ONE_PROCESS
    assert ONE_PROCESS.is_first
    ONE_PROCESS.wait()


def test_the_first_is_that_of_rank_0():
    assert not Processes(rank=1, count=2).is_first
