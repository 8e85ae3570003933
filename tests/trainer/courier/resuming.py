"""Training that goes on from what a courier brings, under a launcher that records whatever is proposed."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from datasets import Numbers
from torch import nn

import mlenv as ml
from mlenv import record, resume
from mlenv_api import names as api_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from bench import Pod


class Training:
    """A model with dropout, which trains on a stream and saves every other step."""

    def __init__(self, pod: Pod, attempt: int) -> None:
        root = pod.folder.parent
        self.job = ml.Job(run_dir=root, name="ranker", uid=pod.config.uid, attempt=attempt)
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.opt = torch.optim.Adam(self.net.parameters(), 0.1)
        self.data = ml.Stream(Numbers([[10]]), 2, rank=0, world=1)
        self.seen: list[Any] = []

    def steps(self, total: int) -> Training:
        policy = ml.Checkpoints(every_steps=2, folder=None)
        with ml.Session(
            self.job, report_every=0, checkpoint=policy, net=self.net, opt=self.opt, data=self.data
        ) as run:
            for batch in run.steps(total):
                self.seen.append(batch["number"].tolist())
                self.opt.zero_grad()
                self.net(batch["number"].float().reshape(-1, 1)).square().mean().backward()
                self.opt.step()
                run.commit(loss=0.5)
        return self

    @property
    def weights(self) -> list[Any]:
        return [one.tolist() for one in self.net.parameters()]


@contextmanager
def attempt(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, number: int, *, carries: bool = True, **known: Any
) -> Iterator[None]:
    """A launcher that records whatever is proposed, and a courier that serves its ranks."""
    monkeypatch.setattr(resume, "_spoken", set())
    monkeypatch.setenv(api_names.ENV_RESUME, json.dumps(known))
    monkeypatch.setenv(api_names.ENV_COURIER, str(pod.own))
    root, over = pod.folder.parent, threading.Event()
    record.clear(root)

    def serve() -> None:
        while not over.wait(0.01):
            told = record.told(root, number)
            if told.origin is not None and record.stored(root, number) is None:
                record.write(root, record.STORED, record.Stored(attempt=number, origin=told.origin))

    def carry() -> None:
        while not over.wait(0.05):
            pod.turn()

    threads = [threading.Thread(target=one) for one in (serve, *([carry] if carries else []))]
    for one in threads:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in threads:
            one.join()
