"""The network, the batch and the number of steps of a suggested config, for a given time.

Without a time, the plan is the preferred network and `PASSES` epochs. With one, it is the first network of `networks` with
which at least `ENOUGH` steps fit; after the smallest network, the batch is halved. Each candidate is measured: roughly
to reject it, and longer to choose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from scoresde.data.inspect_facts import Facts
from scoresde.experiment.config.builder import ConfigError
from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.inspection.cost import PATIENCE, Cost, as_time, measure
from scoresde.experiment.inspection.network import network_warnings, networks
from scoresde.experiment.inspection.section import Section
from scoresde.experiment.inspection.token_advice import token_networks
from scoresde.experiment.training.fit_time import SHARE

PASSES, LEAST_STEPS, MOST_STEPS = 200, 2000, 400_000
ENOUGH = 1000
"""Number of steps below which a smaller network is better."""
LEAST_BATCH, MOST_BATCH = 8, 128


@dataclass(frozen=True)
class Plan:
    """A network and how long it is trained.

    Attributes:
        network: The section ``network``.
        batch_size: Events in a step.
        steps: Number of steps.
        micro_batch: Events at a time; 0 for the whole batch.
        reasons: Reasons for the number of steps.
        cost: What it needs. None if it was not measured.
        warnings: Reasons why the result will be worse than it could be.
    """

    network: Section
    batch_size: int
    steps: int
    micro_batch: int = 0
    reasons: tuple[str, ...] = ()
    cost: Cost | None = None
    warnings: tuple[str, ...] = ()


def first_plan(facts: Facts, train_events: int) -> Plan:
    """The plan without a limit on time."""
    batch = min(MOST_BATCH, max(LEAST_BATCH, 2 ** math.floor(math.log2(max(8, train_events // 8)))))
    steps = min(MOST_STEPS, max(LEAST_STEPS, round(PASSES * train_events / batch / 100) * 100))
    reasons = (
        f"{steps * batch / train_events:.0f} epochs of {train_events} events ({PASSES} epochs, at least {LEAST_STEPS} and at "
        f"most {MOST_STEPS} steps)",
        f"batch_size: at most {MOST_BATCH} and an eighth of the events, at least {LEAST_BATCH}",
    )
    return Plan(_networks(facts)[0], batch, steps, 0, reasons, warnings=() if facts.tokens else network_warnings(facts))


def _networks(facts: Facts) -> list[Section]:
    return token_networks(facts) if facts.tokens else networks(facts)


def measured_plan(plan: Plan, build: Callable[[Plan], Experiment], patience: float = PATIENCE) -> Plan:
    """The plan with its measured cost, and the micro-batches that its memory needs."""
    cost = measure(build(plan), patience)
    warnings = (*plan.warnings, *([f"the network was not measured on this machine: {cost.why}"] if cost.why else []))
    return replace(plan, micro_batch=cost.micro_batch, cost=cost, warnings=warnings)


def fitting_plan(facts: Facts, train_events: int, build: Callable[[Plan], Experiment], seconds: float) -> Plan:
    """The plan that fits into a time.

    Args:
        facts: The facts about the data.
        train_events: Number of training events.
        build: Makes the experiment of a plan.
        seconds: The time for training in seconds.

    Returns:
        The plan with its cost.

    Raises:
        ConfigError: If no network fits into memory.
    """
    first, candidates, rejected = first_plan(facts, train_events), _networks(facts), list[str]()
    tries = [(network, first.batch_size) for network in candidates]
    batch = first.batch_size // 2
    while batch >= LEAST_BATCH:
        tries.append((candidates[-1], batch))
        batch //= 2
    chosen: Plan | None = None
    for network, batch in tries:
        plan, problem = _tried(Plan(network, batch, first.steps), build, seconds)
        chosen = plan or chosen
        if not problem or (plan is not None and (network, batch) == tries[-1]):
            break
        rejected.append(f"not {network.value['name']} of {_width(network)}, batches of {batch}: {problem}")
    if chosen is None:
        raise ConfigError(f"no network fits into memory: {'; '.join(rejected)}")
    return _limited(chosen, first, train_events, seconds, rejected)


def _tried(plan: Plan, build: Callable[[Plan], Experiment], seconds: float) -> tuple[Plan | None, str]:
    """The plan with the number of steps that fit, and a reason against it or ""."""
    problem = ""
    for patience in (min(PATIENCE, max(0.5, seconds / 200)), min(PATIENCE, seconds / 20)):
        cost = (plan := measured_plan(plan, build, patience)).cost
        assert cost is not None
        if cost.seconds is None:
            return None, cost.why
        plan = replace(plan, steps=int(SHARE * seconds / cost.seconds))
        if plan.steps < ENOUGH:
            problem = f"{_each(cost.seconds)}, {plan.steps} steps in {as_time(seconds)} are too few"
            break
    return plan, problem


def _limited(plan: Plan, first: Plan, train_events: int, seconds: float, rejected: list[str]) -> Plan:
    """The plan with a number of steps within those that fit and those that are useful, and the reasons."""
    assert plan.cost is not None and plan.cost.seconds is not None
    useful = min(MOST_STEPS, max(LEAST_STEPS, round(PASSES * train_events / plan.batch_size / 100) * 100))
    fitting, warnings = plan.steps, list(first.warnings)
    if fitting < ENOUGH:
        warnings.append(
            f"only {max(1, fitting)} steps fit into {as_time(seconds)}, and even the smallest network needs {ENOUGH}: give "
            f"at least {as_time(ENOUGH * plan.cost.seconds / SHARE)}, or smaller events"
        )
    steps = max(1, min(useful, fitting if fitting < 1000 else fitting // 100 * 100))
    epochs = steps * plan.batch_size / train_events
    why = f"{steps} steps, {epochs:.3g} epochs of {train_events} events"
    why += (
        f": what fits into {as_time(seconds)}"
        if steps < useful
        else f": {PASSES} epochs or {LEAST_STEPS} steps are enough"
    )
    reasons = (f"{why}, {_each(plan.cost.seconds)}", *first.reasons[1:])
    network = Section("network", plan.network.value, (*plan.network.reasons, *rejected))
    return replace(plan, network=network, steps=steps, reasons=reasons, warnings=tuple(warnings))


def _width(network: Section) -> str:
    value = network.value
    return f"width {value['width']}" if "width" in value else f"{value['channels']} channels"


def _each(seconds: float) -> str:
    return f"{seconds:.2g} s a step"
