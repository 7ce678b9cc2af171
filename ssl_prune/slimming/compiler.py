"""The list of passes: from a network with zeros to one without them that computes the same."""

import math
from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssl_prune.errors import GraphError, SlimError
from ssl_prune.graph import by_export
from ssl_prune.slimming.fallback.compiler import TrialCompiler
from ssl_prune.slimming.outcome.result import SlimResult
from ssl_prune.slimming.outcome.slim_report import make_report
from ssl_prune.slimming.plan.plan import ModulePlan, SlimPlan, shapes_of
from ssl_prune.slimming.program_compiler import ProgramCompiler
from ssl_prune.slimming.proof.candidate import Outcome
from ssl_prune.slimming.proof.outputs import Expected, verify
from ssl_prune.slimming.protocol import Compiler
from ssl_prune.slimming.settings import Settings
from ssl_prune.slimming.subject import Subject
from ssl_prune.slimming.work import is_large

__all__ = ["compiled", "compiler_of"]

_QUICK = 6e10  # multiply-accumulates that a repair may be worth where a second one follows it


def compiled(subject: Subject, settings: Settings) -> SlimResult:
    """Cut a network down to what its outputs need.

    1. Liveness: constants forward, need backward, to the fixed point; then the widths that are asked for.
    2. Candidates: plan and cut, the largest first, then in simpler ways.
    3. Proof of each: outputs, then every value on the way; the first that holds is taken.
    4. Repair where none holds: keep what the code that went wrong handles.
    5. Look again where modules became others, which tie less together than what they were.
    6. All of it once more without computed weights, or with the units of experts in another order, where layers have
       them; the smaller network is taken.

    Args:
        subject: the network, its channel graph and the example.
        settings: how to cut.

    Raises:
        SlimError: the network's own outputs are not finite, or differ from run to run.
    """
    compiler = compiler_of(subject, settings)
    result = _cut(compiler, settings)
    for first in compiler.rewrites:
        other = _rewritten(compiler, settings, first)
        if other is not None and other.report.macs[1] < result.report.macs[1]:
            result = other
    return result


def _cut(compiler: Compiler, settings: Settings) -> SlimResult:
    model = compiler.subject.model
    best: Outcome | None = None
    tried: list[Outcome] = []  # the first one, until a repair takes it: each holds a network
    failure: str | None = None
    for dead, outcome in compiler.prove():
        tried = tried or [outcome]
        if outcome.proof.holds or (not settings.exact and math.isfinite(outcome.proof.max_error)):
            best = outcome
            if torch.equal(dead, compiler.dead()):
                failure = None  # only written in another way
            break
        failure = failure or outcome.proof.failure
    start = compiler.spent
    loose = best is not None and _loosened(best.plan, model)
    if best is None:
        del outcome
        dead, best = compiler.repair(tried.pop())
        loose = compiler.spent - start < _QUICK
    tried.clear()
    best = best._replace(model=SlimPlan.own(best.model, model))
    more = _again(compiler.subject, best.model, settings) if loose else None
    return _joined(compiler, settings, dead, best, failure, more)


def compiler_of(subject: Subject, settings: Settings) -> Compiler:
    """That of the tracer which made the graph.

    Args:
        subject: the network, its channel graph and the example.
        settings: how to cut.
    """
    return (ProgramCompiler if subject.graph.refusal is None else TrialCompiler)(subject, settings)


def _loosened(plan: SlimPlan, model: nn.Module) -> bool:
    """Whether a module became another, or a grouped convolution a plain one, whose channels are less tied."""
    return any(
        module.becomes is not None
        or (module.attributes.get("groups") == 1 and getattr(model.get_submodule(name), "groups", 1) > 1)
        for name, module in plan.modules.items()
    )


def _again(subject: Subject, cut: nn.Module, settings: Settings) -> SlimResult | None:
    """What more can go in the cut network.

    That is where modules became others, or grouped convolutions plain ones, which may tie less together than what they
    were, and where a repair kept more than it had to.
    """
    if subject.graph.refusal is not None or _size(cut) >= _size(subject.model):
        return None
    try:
        graph = by_export(cut, subject.inputs)
    except GraphError:
        return None
    # What was fastest is not changed again.
    settings = replace(settings, columns=settings.columns if settings.columns != "measured" else False)
    smaller = Subject(graph, cut, subject.inputs)
    if not ProgramCompiler(smaller, replace(settings, round_to=1)).changes_anything:
        return None
    more = compiled(smaller, settings)
    fewer = more.report.params[1] < more.report.params[0] or more.report.macs[1] < more.report.macs[0]
    return more if fewer else None


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _joined(
    compiler: Compiler,
    settings: Settings,
    dead: Tensor,
    best: Outcome,
    failure: str | None,
    more: SlimResult | None,
) -> SlimResult:
    """Both cuts as one, where the second one holds beside the network as it was."""
    if more is not None:
        proof = compiler.compare(more.model)
        if proof.holds or not settings.exact:
            report = make_report(compiler, more.model, dead, proof, failure)
            both = dict(Counter(report.removed) + Counter(more.report.removed))
            report = replace(report, removed=both, kept=more.report.kept, refused=failure or more.report.refused)
            return SlimResult(more.model, replace(best.plan, then=more.plan), report, dead)
    return SlimResult(best.model, best.plan, make_report(compiler, best.model, dead, best.proof, failure), dead)


def _rewritten(compiler: Compiler, settings: Settings, modules: dict[str, ModulePlan]) -> SlimResult | None:
    """The network slimmed after a first step that writes some modules in another way."""
    model, inputs = compiler.subject.model, compiler.subject.inputs
    first = SlimPlan(modules, shapes_of(model))
    try:
        plain = first.apply(model, shared=True)
        then = compiled(Subject(by_export(plain, inputs), plain, inputs), settings)
    except SlimError:
        return None
    cut = SlimPlan.own(then.model, model)
    expected = Expected(model, inputs, is_large(compiler.subject.graph.program))
    proof = verify(model, cut, inputs, settings.tolerance, expected)
    if not then.report.removed or (settings.exact and not proof.holds):
        return None
    before = compiler.subject.cost()
    report = replace(
        then.report,
        macs=(before.macs, then.report.macs[1]),
        params=(before.params, then.report.params[1]),
        bytes=(before.bytes, then.report.bytes[1]),
        max_error=proof.max_error,
    )
    return SlimResult(cut, replace(first, then=then.plan), report)
