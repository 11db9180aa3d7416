"""The one table of names: methods, policies, claims and tasks, each a name and where it lives.

Nothing is imported until it is asked for. Other packages add rows through entry points in the groups
`palaestra.methods`, `palaestra.claims` and `palaestra.tasks`; a path such as `my_method.py:MyMethod` or a
module path `package.module:Class` names a method without registering it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from palaestra.core.errors import BadCheckpoint, PalaestraError, unknown

METHODS = {
    "sac": "palaestra.methods.online.sac:SAC",
    "dsac-t": "palaestra.methods.online.dsac_t:DSACT",
    "dsac-v1": "palaestra.methods.online.dsac_v1:DSACV1",
    "td3": "palaestra.methods.online.td3:TD3",
    "ddpg": "palaestra.methods.online.ddpg:DDPG",
    "dqn": "palaestra.methods.online.dqn:DQN",
    "ppo": "palaestra.methods.online.ppo:PPO",
    "mdpo": "palaestra.methods.online.mdpo:MDPO",
    "mdpo-off": "palaestra.methods.online.mdpo_off:MDPOOff",
    "trpo": "palaestra.methods.online.trpo:TRPO",
    "a2c": "palaestra.methods.online.a2c:A2C",
    "reinforce": "palaestra.methods.online.reinforce:REINFORCE",
    "bc": "palaestra.methods.offline.bc:BC",
    "dac": "palaestra.methods.imitation.dac:DAC",
    "ailboost": "palaestra.methods.imitation.ailboost:AILBoost",
    "rlpd": "palaestra.methods.hybrid.rlpd:RLPD",
    "hnpg": "palaestra.methods.hybrid.hnpg:HNPG",
    "td3-bc": "palaestra.methods.offline.td3_bc:TD3BC",
    "prdc": "palaestra.methods.offline.prdc:PRDC",
    "a2pr": "palaestra.methods.offline.a2pr:A2PR",
    "iql": "palaestra.methods.offline.iql:IQL",
    "cql": "palaestra.methods.offline.cql:CQL",
    "bve": "palaestra.methods.offline.bve:BVE",
    "mce": "palaestra.methods.offline.mce:MCE",
    "dqn-offline": "palaestra.methods.offline.dqn_offline:DQNOffline",
    "qr-dqn": "palaestra.methods.offline.qr_dqn:QRDQN",
    "rem": "palaestra.methods.offline.rem:REM",
    "bcq": "palaestra.methods.offline.bcq:BCQ",
    "cql-discrete": "palaestra.methods.offline.cql_discrete:CQLDiscrete",
    "crr": "palaestra.methods.offline.crr:CRR",
    "dt": "palaestra.methods.offline.dt:DT",
    "oppo": "palaestra.methods.offline.oppo:OPPO",
    "pgd": "palaestra.methods.diffusion.pgd:PGD",
    "spo": "palaestra.methods.preference.spo:SPO",
    "spo-sac": "palaestra.methods.preference.spo:SPOSAC",
    "reward-agent": "palaestra.methods.preference.reward_agent:RewardAgent",
    "reward-agent-sac": "palaestra.methods.preference.reward_agent:RewardAgentSAC",
    "sft": "palaestra.methods.language.sft:SFT",
    "grpo": "palaestra.methods.language.grpo:GRPO",
    "dapo": "palaestra.methods.language.dapo:DAPO",
    "dr-grpo": "palaestra.methods.language.dr_grpo:DrGRPO",
    "lite-ppo": "palaestra.methods.language.lite_ppo:LitePPO",
    "rloo": "palaestra.methods.language.rloo:RLOO",
    "reinforce-pp": "palaestra.methods.language.reinforce_pp:ReinforcePP",
    "ppo-lm": "palaestra.methods.language.ppo_lm:PPOLM",
    "unlikeliness": "palaestra.methods.language.unlikeliness:Unlikeliness",
    "trpa": "palaestra.methods.language.trpa:TRPA",
    "odpo": "palaestra.methods.language.trpa:ODPO",
    "reg-grpo": "palaestra.methods.language.reg_grpo:RegGRPO",
    "grpo-augmented": "palaestra.methods.language.reg_grpo:AugmentedGRPO",
    "rebel": "palaestra.methods.language.rebel:REBEL",
    "mdm-sft": "palaestra.methods.language.mdm_sft:MDMSFT",
    "unigrpo": "palaestra.methods.language.unigrpo:UniGRPO",
    "dpo": "palaestra.methods.preference.dpo:DPO",
    "ipo": "palaestra.methods.preference.ipo:IPO",
    "simpo": "palaestra.methods.preference.simpo:SimPO",
    "r-dpo": "palaestra.methods.preference.r_dpo:RDPO",
    "slic": "palaestra.methods.preference.slic:SLiC",
    "plackett-luce": "palaestra.methods.preference.plackett_luce:PlackettLuce",
    "rrhf": "palaestra.methods.preference.rrhf:RRHF",
    "pro": "palaestra.methods.preference.pro:PRO",
    "copg": "palaestra.methods.preference.copg:CoPG",
    "kto": "palaestra.methods.preference.kto:KTO",
    "tdpo1": "palaestra.methods.preference.tdpo:TDPO1",
    "tdpo2": "palaestra.methods.preference.tdpo:TDPO2",
    "a-lol": "palaestra.methods.preference.a_lol:ALoL",
    "a-lol-seq": "palaestra.methods.preference.a_lol:ALoLSeq",
    "a-lol-ref-free": "palaestra.methods.preference.a_lol:ALoLRefFree",
    "a-lol-kl": "palaestra.methods.preference.a_lol:ALoLKL",
    "wbc": "palaestra.methods.preference.weighted:WeightedBC",
    "gold": "palaestra.methods.preference.weighted:GOLD",
    "r-lol": "palaestra.methods.preference.weighted:RLoL",
    "inpo": "palaestra.methods.preference.inpo:INPO",
    "dno": "palaestra.methods.preference.dno:DNO",
    "sppo": "palaestra.methods.preference.sppo:SPPO",
    "spo-lm": "palaestra.methods.preference.spo_lm:SPOLM",
    "iterated-dpo": "palaestra.methods.preference.iterated_dpo:IteratedDPO",
    "reward-model": "palaestra.methods.preference.reward_model:RewardModelling",
    "ppo-max": "palaestra.methods.preference.ppo_max:PPOMax",
    "ppo-max-released": "palaestra.methods.preference.ppo_max:PPOMaxReleased",
    "rto": "palaestra.methods.preference.rto:RTO",
    "salsa": "palaestra.methods.preference.salsa:SALSA",
}

CLAIMS = {
    "sac": "palaestra.claims.sac:claim",
    "dsac-t": "palaestra.claims.dsac_t:claim",
    "mdpo": "palaestra.claims.mdpo:claim",
    "ailboost": "palaestra.claims.ailboost:claim",
    "hnpg": "palaestra.claims.hnpg:claim",
    "prdc": "palaestra.claims.prdc:claim",
    "pgd": "palaestra.claims.pgd:claim",
    "a2pr": "palaestra.claims.a2pr:claim",
    "oppo": "palaestra.claims.oppo:claim",
    "dataset-measures": "palaestra.claims.dataset_measures:claim",
    "trajectory-weighting": "palaestra.claims.trajectory_weighting:claim",
    "reg-grpo": "palaestra.claims.reg_grpo:claim",
    "reg-grpo-sorting": "palaestra.claims.reg_grpo:sorting",
    "reg-grpo-clips": "palaestra.claims.reg_grpo:clips",
    "unlikeliness": "palaestra.claims.unlikeliness:claim",
    "unlikeliness-proofs": "palaestra.claims.unlikeliness:proofs",
    "trpa": "palaestra.claims.trpa:claim",
    "trpa-puzzles": "palaestra.claims.trpa:puzzles",
    "backtrack": "palaestra.claims.backtrack:claim",
    "backtrack-sudoku": "palaestra.claims.backtrack:sudoku",
    "tricks-or-traps": "palaestra.claims.tricks_or_traps:claim",
    "mmada": "palaestra.claims.mmada:claim",
    "mmada-images": "palaestra.claims.mmada:images",
    "spo": "palaestra.claims.spo:claim",
    "ppo-max": "palaestra.claims.ppo_max:claim",
    "rto": "palaestra.claims.rto:claim",
    "salsa": "palaestra.claims.salsa:claim",
    "simpo": "palaestra.claims.simpo:claim",
    "copg": "palaestra.claims.copg:claim",
    "inpo": "palaestra.claims.inpo:claim",
    "dno": "palaestra.claims.dno:claim",
    "r-to-q": "palaestra.claims.r_to_q:claim",
    "pro": "palaestra.claims.pro:claim",
    "pro-commongen": "palaestra.claims.pro:commongen",
    "a-lol": "palaestra.claims.a_lol:claim",
    "unpacking-dpo-ppo": "palaestra.claims.unpacking:claim",
    "backtrack-variants": "palaestra.claims.backtrack:variants",
}

POLICIES = {
    "squashed-gaussian": "palaestra.nets.actors:SquashedGaussianActor",
    "deterministic-actor": "palaestra.nets.actors:DeterministicActor",
    "gaussian-actor": "palaestra.nets.actors:GaussianActor",
    "q-network": "palaestra.nets.q_network:QNetwork",
    "categorical-actor": "palaestra.nets.categorical_actor:CategoricalActor",
    "ensemble": "palaestra.nets.ensemble:Ensemble",
    "actor-critic": "palaestra.nets.actor_critic:ActorCritic",
    "stepwise-gaussian": "palaestra.nets.stepwise:StepwiseGaussian",
    "tabular": "palaestra.nets.tabular:Tabular",
    "sequence-actor": "palaestra.nets.sequence_actor:SequenceActor",
    "trajectory-diffusion": "palaestra.nets.trajectory_diffusion:TrajectoryDiffusion",
    "language-model": "palaestra.language.policy:LanguagePolicy",
    "diffusion-language-model": "palaestra.language.diffusion.policy:DiffusionLanguagePolicy",
    "reward-model": "palaestra.language.reward_policy:RewardPolicy",
}

TASKS = {
    "judged": "palaestra.envs.judged:JudgedTask",
    "countdown": "palaestra.language.tasks.countdown:CountDown",
    "sorting": "palaestra.language.tasks.sorting:Sorting",
    "sudoku": "palaestra.language.tasks.sudoku:Sudoku",
    "arithmetic": "palaestra.language.tasks.arithmetic:Arithmetic",
    "knights": "palaestra.language.tasks.knights:Knights",
    "proofs": "palaestra.language.tasks.proofs:Proofs",
    "bandit": "palaestra.language.tasks.bandit:Bandit",
    "clips": "palaestra.language.tasks.clips:Clips",
    "squares": "palaestra.language.tasks.squares:Squares",
    "stories": "palaestra.language.tasks.stories:StoriesTask",
    "gsm8k": "palaestra.language.tasks.maths:GSM8K",
    "maths": "palaestra.language.tasks.maths:Maths",
    "humaneval": "palaestra.language.tasks.programs:HumanEval",
    "mbpp": "palaestra.language.tasks.programs:MBPP",
    "prompts": "palaestra.language.tasks.prompts:PromptTask",
    "noisy-sort": "palaestra.language.tasks.noisy_sort:NoisySort",
    "sort-len": "palaestra.language.tasks.sort_len:SortLen",
    "cyclic-style": "palaestra.language.tasks.cyclic_style:CyclicStyle",
    "skill-mix": "palaestra.language.tasks.skill_mix:SkillMix",
    "hh-rlhf": "palaestra.language.tasks.hh_rlhf:HHRLHF",
    "commongen": "palaestra.language.tasks.commongen:CommonGen",
}


USER_PREFIX = "palaestra_user_"
"""Begins the names of modules that were loaded from a user's file."""


@cache
def table(group: str) -> dict[str, str]:
    """The names of a group ('methods', 'claims' or 'tasks') with those that installed packages add."""
    own = {"methods": METHODS, "claims": CLAIMS, "tasks": TASKS}[group]
    added = {point.name: point.value for point in entry_points(group=f"palaestra.{group}")}
    return {**added, **own}


def method_class(name: str) -> type:
    """The method class called `name`, or found at `file.py:Class` or `package.module:Class`."""
    from palaestra.core.method import Method

    methods = table("methods")
    if name not in methods and ":" not in name:
        raise unknown("method", name, methods)
    found = locate(methods.get(name, name))
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise PalaestraError(f"{name} is no method: it should be a class that derives from palaestra.Method")
    return found


def claim(name: str) -> Any:
    """The claim of the paper `name`, or found at `file.py:claim` or `package.module:claim`."""
    claims = table("claims")
    if name in claims:
        return locate(claims[name])
    if ":" in name:
        return locate(name)
    raise unknown("claim", name, claims)


def policy_class(name: str) -> type:
    """The policy class a saved file names; only known names are accepted, so that a file cannot import anything."""
    if name in POLICIES:
        return locate(POLICIES[name])
    for cls in _user_policies:
        if f"{cls.__module__}:{cls.__qualname__}" == name:
            return cls
    raise BadCheckpoint(
        f"the file holds a policy of class '{name}', which is not palaestra's own; "
        "import it and call palaestra.register_policy(YourPolicy) before loading"
    )


_user_policies: list[type] = []


def register_policy(cls: type) -> type:
    """Allow saved policies of a user's class to be loaded; usable as a decorator."""
    _user_policies.append(cls)
    return cls


def name_of(cls: type) -> str:
    """The short name of a registered class, else its module path."""
    where = f"{cls.__module__}:{cls.__qualname__}"
    for names in (table("methods"), table("tasks"), POLICIES):
        for name, location in names.items():
            if location == where:
                return name
    return where


def source_of(thing: Any) -> str:
    """How to find a class or function again: its short name, `file.py:Name` if it is from a user's file, or its module path."""
    module = sys.modules.get(thing.__module__)
    file = getattr(module, "__file__", None)
    from_user = thing.__module__ == "__main__" or thing.__module__.startswith(USER_PREFIX)
    if file and from_user and thing.__qualname__.isidentifier():
        return f"{Path(file).resolve()}:{thing.__qualname__}"
    return name_of(thing)


def locate(where: str) -> Any:
    """Import the object at `package.module:Name` or `path/to/file.py:Name`."""
    place, _, attribute = where.rpartition(":")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise PalaestraError(f"cannot import '{place}' ({error})") from None
    if not hasattr(module, attribute):
        known = [n for n, value in vars(module).items() if not (n.startswith("_") or isinstance(value, ModuleType))]
        raise unknown(f"name in {place}:", attribute, known)
    return getattr(module, attribute)


def _load_file(path: Path) -> Any:
    path = path.resolve()
    if not path.exists():
        raise PalaestraError(f"there is no file {path}")
    name = f"{USER_PREFIX}{path.stem}"
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PalaestraError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
