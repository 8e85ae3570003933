"""How fast an operator turns a burst of jobs into gangs of pods, and at what price.

On a local cluster with fake nodes, its whole control plane on this machine. Jobs are submitted as fast
as the server takes them; its audit log tells when their pods were created and started and who wrote how much,
a watch when the jobs are done. In the same run a bare client posts the same objects per job without any
operator: the limit.

Ours has the jobs' launcher off: fake pods run no program. With --launcher MLEnv it is on, never speaks, and
jobs are seen until their pods run; such jobs have no Service. --indexed measures Kubernetes' own Indexed Jobs
beside it. Another operator: --manifest TEMPLATE with the label and condition of its jobs, --process and
--user; with --no-install it is there already, in a cluster mlenv-bench that you brought up with fake nodes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from crowd import jobs, setup
from crowd.burst import Size, run_bare, run_burst
from crowd.report import FLOOR, figures, tell, tell_bare

from mlenv_api import names
from mlenv_local.errors import LocalError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from crowd.jobs import Kind
    from crowd.setup import Operator

    from mlenv_local import Cluster

INDEXED = Path(__file__).parent / "peers" / "indexed-job.yaml"
INDEXED_LABEL = "batch.kubernetes.io/job-name"
TESTED, BARE, BESIDE = "bench-gangs", "bench-bare", "bench-indexed"
WARM_UP_JOBS, WARM_UP_S = 5, 1.0
Figures = dict[str, Any]


async def measure(found: Cluster, args: argparse.Namespace) -> Figures:
    """The operator's burst, the bare client's, and if asked for that of Indexed Jobs."""
    size = Size(args.jobs, args.pods, args.connections, args.patience)
    kind = _kind(args, _run_for_s(args))
    with _operator(found, args) as operator:
        await _warm_up(found, _kind(args, WARM_UP_S), operator, size)
        burst = await run_burst(found, TESTED, kind, operator, size)
    tell(kind.title, burst, size)
    result = figures(burst, size)
    bare, shares = await _bare(found, args, size)
    ratio = {"ratio_to_bare_client": round(result["gangs_per_s"] / bare["bare_client_gangs_per_s"], 3)}
    tell_bare(bare | ratio, shares)
    beside = {"indexed_job": await _indexed(found, args, size)} if args.indexed else {}
    return {**result, **bare, **ratio, **beside, "jobs": args.jobs, "pods": args.pods, "kind": kind.title}


async def _warm_up(found: Cluster, kind: Kind, operator: Operator, size: Size) -> None:
    """A few jobs that nobody counts: connections and caches are there when it begins."""
    namespace = f"{TESTED}-warm-up"
    setup.make_namespace(found, namespace)
    await run_burst(found, namespace, kind, operator, Size(WARM_UP_JOBS, *size[1:]))


async def _bare(found: Cluster, args: argparse.Namespace, size: Size) -> tuple[Figures, dict[str, float]]:
    setup.make_namespace(found, BARE)
    ours = jobs.training_jobs(args.pods, _run_for_s(args), args.launcher)
    gangs = [jobs.bare_gang(ours.manifest(jobs.NAME.format(n), BARE)) for n in range(args.jobs)]
    timeline, shares = await run_bare(found, BARE, gangs, names.LABEL_JOB, size)
    told = {
        "bare_client_gangs_per_s": round(timeline.per_second("created"), 1),
        "bare_client_running_per_s": round(timeline.per_second("running"), 1),
    }
    return told, shares


async def _indexed(found: Cluster, args: argparse.Namespace, size: Size) -> Figures:
    kind = jobs.from_template(INDEXED, INDEXED_LABEL, "Complete", args.pods, _run_for_s(args))
    with setup.kubernetes_own(found, BESIDE) as operator:
        burst = await run_burst(found, BESIDE, kind, operator, size)
    tell("Indexed Job (kube-controller-manager)", burst, size)
    return figures(burst, size)


def _run_for_s(args: argparse.Namespace) -> float:
    """Unless told otherwise so long that no gang ends before the last one was created at a tenth of ours."""
    return float(args.run_for or max(20.0, 2.0 * args.jobs / FLOOR))


def _kind(args: argparse.Namespace, run_for_s: float) -> Kind:
    if args.manifest is None:
        return jobs.training_jobs(args.pods, run_for_s if args.launcher == "None" else None, args.launcher)
    return jobs.from_template(args.manifest, args.label, args.done, args.pods, run_for_s)


def _operator(found: Cluster, args: argparse.Namespace) -> AbstractContextManager[Operator]:
    if args.manifest is not None:
        return setup.somebody_elses(found, TESTED, process=args.process, user=args.user)
    if args.no_install:
        return setup.somebody_elses(found, TESTED, process=setup.OURS, user=setup.OUR_USER)
    if args.operator == "outside":
        return setup.outside(found, TESTED, args.profile)
    return setup.from_image(found, TESTED)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--pods", type=int, default=4, help="pods of each job")
    parser.add_argument(
        "--connections", type=int, default=32, help="on which jobs, or bare objects, are sent"
    )
    parser.add_argument("--launcher", choices=["None", "MLEnv"], default="None", help="of our own jobs")
    parser.add_argument("--run-for", type=float, help="seconds that a pod runs")
    parser.add_argument("--patience", type=float, default=180, help="seconds in which something must move")
    parser.add_argument("--operator", choices=["image", "outside"], default="image")
    parser.add_argument("--profile", type=Path, help="cProfile's file, of an operator outside")
    parser.add_argument("--indexed", action="store_true", help="Indexed Jobs, too")
    parser.add_argument(
        "--manifest", type=Path, help="of another operator's job, with ${name}, ${namespace}, …"
    )
    parser.add_argument("--label", default=INDEXED_LABEL, help="on its pods: the job's name")
    parser.add_argument("--done", default="Complete", help="condition of its job when all went well")
    parser.add_argument("--process", default=setup.JOB_CONTROLLER, help="words of its command line")
    parser.add_argument("--user", default=setup.JOB_CONTROLLER_USER, help="as which it writes")
    parser.add_argument("--no-install", action="store_true", help="the operator is there already")
    parser.add_argument("--name", default=setup.NAME, help="of the cluster")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    return parser.parse_args()


def main() -> None:
    """Run, print tables, and as the last line the figures as JSON."""
    args = arguments()
    bursts = 3 if args.indexed else 2
    try:
        with setup.cluster(args.jobs * args.pods * bursts, keep=args.keep, name=args.name) as found:
            result = uvloop.run(measure(found, args))
    except LocalError as error:
        raise SystemExit(str(error)) from error
    print(json.dumps(result))


if __name__ == "__main__":
    main()
