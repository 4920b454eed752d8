"""One call for a whole comparison: open, check, ask, sum up, write."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from sifthinker.agent.config import focus_config
from sifthinker.nodes.context import Mode
from sifthinker.policy.base import Policy
from sifthinker.policy.errors import UsageError
from sifthinker.policy.load import load_policy
from sifthinker.training.compare.adaptive import RULE_SETTINGS, adaptive_rule, remarks
from sifthinker.training.compare.answering import Answerer
from sifthinker.training.compare.data import QuestionSet, open_data
from sifthinker.training.compare.engines import Engine, in_processes, in_threads, with_ray
from sifthinker.training.compare.identity import identity, is_remote, on_cpu, parameter_bytes, prompts, versions
from sifthinker.training.compare.journal import Rows, opened
from sifthinker.training.compare.plan import Asked, Plan
from sifthinker.training.compare.records import Answered, Asking
from sifthinker.training.compare.results import About, Results, data_sha256, results_of, write_results, write_rows
from sifthinker.training.compare.runner import Runner
from sifthinker.training.compare.summary import summarise

EngineName = Literal["auto", "threads", "processes", "ray"]
_SMALL_BYTES = 1_000_000_000  # a model below this is loaded once in each process


@dataclass(frozen=True)
class Comparison:
    """Everything that `compare` is told.

    Attributes:
        data: questions, or the name of some (`open_data`).
        out: the folder of the comparison; with answers in it the run goes on.
        plan: what is compared.
        asking: how every question is asked.
        policies: those already loaded, by name; the others are loaded.
        engine: where the questions are asked. "auto": threads for servers, GPUs and large models, else processes.
        workers: processes, or Ray's workers; None: one a core, or a GPU.
        command: the command line, for the report.
    """

    data: str | QuestionSet
    out: Path
    plan: Plan
    asking: Asking = field(default_factory=Asking)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    engine: EngineName = "auto"
    workers: int | None = None
    command: str = ""


@dataclass(frozen=True)
class Finished:
    """A comparison that is written down."""

    results: Results
    asked: Asked
    rows: Rows
    """All answers of the folder, read from there when they are looked at."""
    new: int
    """Those of this run."""
    repaired: bool
    """Whether an earlier run had left a torn line."""


def compare(
    comparison: Comparison,
    *,
    on_start: Callable[[Asked], None] = lambda asked: None,
    on_answer: Callable[[Answered], None] = lambda row: None,
) -> Finished:
    """Ask every question in every mode, and write what came of it. A run that was broken off goes on.

    Args:
        comparison: what, how and where.
        on_start: told what will be asked, before anything is.
        on_answer: told of each answer, those of earlier runs first.

    Raises:
        UsageError: something that cannot be compared, or a folder of another comparison. DataError: data or folder
            that cannot be read or written. PolicyLoadError, PolicyUnavailable: a policy that is not there.
    """
    import_module("pyarrow.parquet")  # the last table is written with it: to lack it is to be told now, not then
    check_modes(comparison.plan)
    _check_engine(comparison)
    data = open_data(comparison.data) if isinstance(comparison.data, str) else comparison.data
    asked = Asked(comparison.plan, data)
    if not asked.questions:
        raise UsageError(f"There is nothing to ask: {data.name} holds no question, or the limit is 0.")
    asking = comparison.asking
    decoding = _decoding(asking)
    policies = {
        name: comparison.policies.get(name) or load_policy(name, **asking.options) for name in comparison.plan.policies
    }
    rules = {
        name: adaptive_rule(policy, asking.settings)
        for name, policy in policies.items()
        if "adaptive" in comparison.plan.modes
    }
    asking = replace(asking, rules={name: rule.settings for name, rule in rules.items()})
    places = any(question.kind == "place" for question in asked.questions)
    known = {
        name: identity(name, policy, {} if name in comparison.policies else asking.options, places=places)
        | ({"adaptive": rules[name].bounds} if name in rules else {})
        for name, policy in policies.items()
    }
    depth = asking.depth or "what suits the policy"
    with opened(comparison.out, {"policies": known, "decoding": decoding, "depth": depth}) as journal:
        on_start(asked)
        runner = Runner(
            asked, journal, _engine(comparison, asking, policies), in_threads(Answerer(asking, policies), 1), on_answer
        )
        runner.run()
        rows = journal.rows()
        sha256 = data_sha256([asked.digest(question) for question in asked.questions])
        about = About(
            data=data.name,
            licence=data.licence,
            made_by=str(getattr(data, "made_by", "")),
            n=len(asked.questions),
            seeds=list(comparison.plan.seeds),
            data_sha256=sha256,
            decoding=decoding,
            adaptive=rules,
            depth=depth,
            prompts={
                name: prompts(policy.profile, asked.questions[0], depth=asking.depth != "none")
                for name, policy in policies.items()
            },
            policies=known,
            versions=versions(),
            command=comparison.command,
            limit=comparison.plan.limit,
            notes=remarks(rules, sha256),
        )
        results = results_of(about, summarise(comparison.plan, data, asked.questions, rows))
        write_rows(comparison.out, journal.sorted_rows())
        write_results(comparison.out, results)
        return Finished(results, asked, rows, runner.asked_now, journal.repaired)


def check_modes(plan: Plan) -> None:
    """See that the plan can be carried out.

    Raises:
        UsageError: a mode that there is not, none at all, or one named twice.
    """
    known = get_args(Mode)
    for mode in (*plan.modes, *plan.edited_modes):
        if mode not in known:
            raise UsageError(f"There is no mode {mode!r}: expected some of {', '.join(known)}.")
    for what, names in (("mode", plan.modes), ("policy", plan.policies), ("seed", plan.seeds)):
        if not names:
            raise UsageError(f"Expected at least one {what}, got none.")
        if len(set(names)) < len(names):
            raise UsageError(f"A {what} is named twice in {', '.join(map(str, names))}.")
    if "direct" in plan.edited_modes:
        raise UsageError("Mode direct cites no region: leave it out of --faithfulness-modes.")
    for mode in plan.edited_modes if plan.edits else ():
        if mode not in plan.modes:
            raise UsageError(f"Faithfulness is asked for in mode {mode!r}, which is not compared: add it to --modes.")


def _check_engine(comparison: Comparison) -> None:
    if comparison.workers is not None and comparison.workers < 1:
        raise UsageError(f"Expected at least one worker, got {comparison.workers}.")
    if comparison.policies and comparison.engine in ("processes", "ray"):
        raise UsageError(
            f"Engine {comparison.engine!r} loads policies by name in each process: do not hand over loaded ones."
        )
    if comparison.engine == "ray" and importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs Ray, which is not installed: pip install 'sifthinker[ray]'.")


def _decoding(asking: Asking) -> dict[str, Any]:
    """The settings of every run, whatever the mode: all of them, so that a changed default is seen."""
    config = focus_config(**asking.settings).model_dump(mode="json")
    return {name: value for name, value in config.items() if name not in {"mode", "limits", *RULE_SETTINGS}}


def _engine(comparison: Comparison, asking: Asking, policies: Mapping[str, Policy]) -> Engine:
    name, workers = comparison.engine, comparison.workers
    if name == "ray":
        return with_ray(asking, workers)
    small = all(
        on_cpu(policy) and (parameter_bytes(policy) or _SMALL_BYTES) < _SMALL_BYTES for policy in policies.values()
    )
    if name == "auto":
        name = "processes" if small and not comparison.policies and _cores() > 1 else "threads"
    if name == "processes":
        if any(is_remote(policy) for policy in policies.values()):
            raise UsageError("A server is asked in threads: leave --engine out, and set --batch instead.")
        return in_processes(asking, workers or _cores())
    return in_threads(Answerer(asking, policies), asking.concurrency)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
