"""Trains a DeepFM on MovieLens-100k: will this user rate this movie 4 or 5?

Alone: ``python train.py --data DIR``. On two processes: ``python -m mlenv.launch --nproc-per-node 2
train.py --data DIR``. On a cluster: ``kubectl apply -f job.yaml``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from movielens import Ratings, Shard, auc, baseline, load
from torch import Tensor, nn
from torch.nn import functional

import mlenv as ml


class DeepFM(nn.Module):
    """First-order weights, pairwise products of embeddings, and a multilayer perceptron over them."""

    unknown: Tensor
    hide: Tensor

    def __init__(self, data: Ratings, dim: int = 32, hidden: tuple[int, ...] = (256, 128)) -> None:
        super().__init__()
        fields = data.fields.shape[1] + 1  # the genres of a movie are one more field
        self.embed = nn.Embedding(data.rows, dim)
        self.weight = nn.Embedding(data.rows, 1)
        self.genre_embed = nn.Linear(data.genres.shape[1], dim, bias=False)
        self.genre_weight = nn.Linear(data.genres.shape[1], 1)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.zeros_(self.weight.weight)
        layers: list[nn.Module] = []
        width = fields * dim
        for size in hidden:
            layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(0.4)]
            width = size
        self.deep = nn.Sequential(*layers, nn.Linear(width, 1))
        # Most held-out users are new: in training, one in ten is hidden, so that "unknown" learns to rank.
        self.register_buffer("unknown", torch.from_numpy(data.firsts), persistent=False)
        self.register_buffer("hide", torch.tensor([0.1, 0.02] + [0.0] * (fields - 3)), persistent=False)

    def forward(self, fields_bf: Tensor, genres_bg: Tensor) -> Tensor:
        """Logits; b counts samples, f fields, g genres, d dimensions."""
        if self.training:
            hidden = torch.rand(fields_bf.shape, device=fields_bf.device) < self.hide
            fields_bf = torch.where(hidden, self.unknown, fields_bf)
        embedded_bfd = torch.cat([self.embed(fields_bf), self.genre_embed(genres_bg).unsqueeze(1)], dim=1)
        pairs_b = (embedded_bfd.sum(1).square() - embedded_bfd.square().sum(1)).sum(1) / 2
        first_b = self.weight(fields_bf).sum((1, 2)) + self.genre_weight(genres_bg).squeeze(1)
        return first_b + pairs_b + self.deep(embedded_bfd.flatten(1)).squeeze(1)


def evaluate(net: nn.Module, job: ml.Job, fields: Tensor, genres: Tensor, labels: Tensor) -> float:
    """AUC on the given samples; every rank scores its share of them."""
    net.eval()
    mine = torch.arange(job.rank, len(labels), job.world_size, device=job.device)
    with torch.no_grad():
        scores = net(fields[mine], genres[mine]).double()
    net.train()
    parts: list[tuple[np.ndarray, np.ndarray]] = [(labels[mine].cpu().numpy(), scores.cpu().numpy())]
    if job.world_size > 1:
        parts = parts * job.world_size
        dist.all_gather_object(parts, parts[job.rank])
    return auc(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("/data"), help="folder with ml-100k.inter, .user, .item"
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=512, help="samples per step, over all ranks")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, compare with the baseline, tell."""
    args = arguments()
    job = ml.init(seed=args.seed)
    data = load(args.data)
    average = baseline(data)
    reached = float("nan")
    fields, genres, labels = (
        torch.from_numpy(array).to(job.device) for array in (data.fields, data.genres, data.labels)
    )
    held_out = slice(data.train, None)

    net = ml.wrap(DeepFM(data))
    opt = torch.optim.AdamW(net.parameters(), args.lr, weight_decay=0.1)
    shard = Shard(data.train, args.batch, rank=job.rank, world=job.world_size, seed=args.seed)
    total = args.epochs * len(shard)
    schedule = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.01, total_iters=total)

    often = ml.Checkpoints(every_seconds=10)  # the whole run takes a minute
    with ml.Session(job, checkpoint=often, net=net, opt=opt, schedule=schedule, data=shard) as run:
        for index in run.steps(total):
            batch = torch.from_numpy(index).to(job.device)
            loss = functional.binary_cross_entropy_with_logits(
                net(fields[batch], genres[batch]), labels[batch]
            )
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            run.commit(loss=loss, samples=len(index))
            if run.step % len(shard) == 0:
                reached = evaluate(net, job, fields[held_out], genres[held_out], labels[held_out])
                run.log(auc=reached, baseline_auc=average)
    if job.main:
        print(f"AUC {reached:.4f} on the last tenth; user mean + movie mean: {average:.4f}", flush=True)


if __name__ == "__main__":
    main()
