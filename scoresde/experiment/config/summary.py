"""What a run trains, in words: the process, the network and the objectives, for reports and model cards."""

from __future__ import annotations

from torch import nn

from scoresde.experiment.config.experiment import Experiment
from scoresde.experiment.config.families import process_of
from scoresde.experiment.config.sections import OptimizerConfig
from scoresde.experiment.config.trained import MAIN, key_of, trained_modules


def process_text(experiment: Experiment) -> str:
    """The process, and the number of its trained parameters if there are any."""
    process = process_of(experiment.model)
    count = sum(p.numel() for p in process.parameters()) if isinstance(process, nn.Module) else 0
    return f"{process!r} with {count:,} parameters" if count else repr(process)


def network_text(experiment: Experiment) -> str:
    """The class of the network and the number of its parameters."""
    network = experiment.model.network
    return f"{type(network).__name__} with {sum(p.numel() for p in network.parameters()):,} parameters"


def objective_rows(experiment: Experiment) -> list[tuple[str, str]]:
    """A row for each objective: its key, and its node of the config.

    If there are several, a row also says which modules the objective trains, and which settings its optimizer has.
    """
    rows = []
    content = experiment.config.to_dict()
    for name, modules in trained_modules(experiment.model, experiment.objectives).items():
        node = content[MAIN] if name == MAIN else content["objectives"][name]
        parts = [f"{node['name']}({', '.join(f'{key}={value!r}' for key, value in node.items() if key != 'name')})"]
        if len(experiment.objectives) > 1:
            parts += [f"trains {', '.join(modules)}", *_settings(experiment.optimizers[name])]
        rows.append((key_of(name), "; ".join(parts)))
    return rows


def _settings(optimizer: OptimizerConfig) -> list[str]:
    """The settings of an optimizer that differ from those of the section ``training``."""
    values = {
        "learning rate": optimizer.learning_rate,
        "beta2": optimizer.beta2,
        "gradient norm at most": optimizer.grad_clip,
    }
    found = [f"{name} {value:g}" for name, value in values.items() if value is not None]
    return found + ([f"every {optimizer.every} steps"] if optimizer.every > 1 else [])
