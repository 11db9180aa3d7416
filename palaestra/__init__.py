"""palaestra: train, compare and reproduce policy-learning methods through one engine.

    import palaestra as pal
    run = pal.train(pal.SAC(lr=3e-4), "HalfCheetah-v5", steps=1_000_000, seed=0)

Methods and functions are imported when first used, so that `import palaestra` costs little more than `import torch`.
"""

from __future__ import annotations

import os
from typing import Any

# Idle OpenMP threads spin before they sleep. Without a bound, one busy neighbour on the machine makes them spin against each
# other; with none, every operation pays for waking a thread. Must be set before torch starts its threads.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from palaestra.core import registry as _registry
from palaestra.version import __version__

_FUNCTIONS = {
    "train": "palaestra.runs.begin:train",
    "compare": "palaestra.runs.compare:compare",
    "Comparison": "palaestra.runs.compare:Comparison",
    "load_records": "palaestra.runs.record:load_records",
    "reproduce": "palaestra.claims.reproduce:reproduce",
    "load_run": "palaestra.runs.begin:from_folder",
    "Run": "palaestra.runs.run:Run",
    "Engine": "palaestra.runs.engine:Engine",
    "Budget": "palaestra.core.method:Budget",
    "Method": "palaestra.core.method:Method",
    "Policy": "palaestra.core.policy:Policy",
    "load_policy": "palaestra.core.policy:load_policy",
    "register_policy": "palaestra.core.registry:register_policy",
    "Experience": "palaestra.core.experience:Experience",
    "PalaestraError": "palaestra.core.errors:PalaestraError",
    "EnvTask": "palaestra.envs.task:EnvTask",
    "check_env": "palaestra.envs.checker:check_env",
    "Dataset": "palaestra.data.dataset:Dataset",
    "DatasetTask": "palaestra.data.task:DatasetTask",
    "load_dataset": "palaestra.data.load:load_dataset",
    "make_dataset": "palaestra.data.make:make",
    "mix_datasets": "palaestra.data.mixture:mix",
    "PreferenceDataset": "palaestra.data.preferences:PreferenceDataset",
    "ScriptedTeacher": "palaestra.data.preferences:ScriptedTeacher",
    "load_preferences": "palaestra.data.preference_files:load_preferences",
    "import_dataset": "palaestra.data.importing:import_dataset",
    "Limits": "palaestra.data.importing:Limits",
    "check_dataset": "palaestra.data.checker:check_dataset",
    "summarise": "palaestra.data.summary:summarise",
    "PromptTask": "palaestra.language.tasks.prompts:PromptTask",
    "TextTask": "palaestra.language.task:TextTask",
    "Judge": "palaestra.language.judges.judge:Judge",
    "LanguagePolicy": "palaestra.language.policy:LanguagePolicy",
    "write_minari": "palaestra.data.minari:write_minari",
}
_CLASSES = {where.rpartition(":")[2]: where for where in _registry.METHODS.values()}

__all__ = ["__version__", *_FUNCTIONS, *_CLASSES]


def __getattr__(name: str) -> Any:
    where = _FUNCTIONS.get(name) or _CLASSES.get(name)
    if where is None:
        raise AttributeError(f"module 'palaestra' has no attribute '{name}'")
    value = _registry.locate(where)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
