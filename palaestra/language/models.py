"""Causal language models: by hub name, from a folder, or tiny and from scratch."""

from __future__ import annotations

import hashlib
import re
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palaestra.core import files
from palaestra.core.errors import BadCheckpoint, BadSetting, PalaestraError
from palaestra.data.real import real_data
from palaestra.language.convert import read_llama2c
from palaestra.language.soups import named_soup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from palaestra.language.task import TextTask

SCRATCH = re.compile(r"(tiny|tiny-video|mdm)-(\d+)x(\d+)")
"""`tiny-WIDTHxLAYERS`, a model from scratch; `tiny-video-WIDTHxLAYERS` is one that takes clips besides text, and
`mdm-WIDTHxLAYERS` one of masked diffusion (`language.diffusion.loading`)."""
STORIES = "stories260K"
"""A real pretrained model of 260,032 parameters, which writes stories."""
POSITIONS = 4096
"""Tokens that a tiny model's sequences may have."""
MAMBAS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Types of models whose scan is given the weights of `out_proj` as they are, so that an adapter there would do nothing."""


def load_model(name: str, task: TextTask | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """A causal model and its tokeniser, ready to train: a hub name, a local folder (of a run, too), or `tiny-64x2`.

    A tiny model starts from random weights and takes the tokeniser of its task. `soup:A,B` and `soup:A*0.3,B*0.7` are averages.

    Raises:
        BadSetting: a tiny model without a task that has a tokeniser.
        PalaestraError: there is no such model.
    """
    fresh = SCRATCH.fullmatch(name)
    if fresh is None or fresh[1] == "mdm":
        return named_soup(name, partial(load_model, task=task)) or converted(name) or pretrained(name)
    tokeniser = tokeniser_of(task, name)
    make = video_from_scratch if fresh[1] == "tiny-video" else from_scratch
    return make(int(fresh[2]), int(fresh[3]), tokeniser), tokeniser


def tokeniser_of(task: TextTask | None, model: str) -> PreTrainedTokenizerBase:
    """The tokeniser that a task has for models from scratch, such as the one called `model`.

    Raises:
        BadSetting: it has none, or there is no task.
    """
    tokeniser = task.tokeniser() if task is not None else None
    if tokeniser is None:
        raise BadSetting(
            f"{model} starts from scratch and needs the tokeniser of its task, but {task.name if task else 'no task'} has none; "
            "give a pretrained model, by its folder or its hub name"
        )
    return tokeniser


def heads_of(width: int, layers: int) -> int:
    """How many heads a tiny model has: each of 16 numbers, or of 32 from a width of 128 on.

    Raises:
        BadSetting: there is no such model.
    """
    head = 16 if width < 128 else 32
    if width < head or width % head or layers < 1:
        raise BadSetting(
            f"the width of a tiny model must be a multiple of {head}, with a layer or more, got {width}x{layers}"
        )
    return width // head


def hidden_size(name: str) -> int | None:
    """How wide a model is, by its name or the folder that it names, without loading it; None where neither says."""
    if fresh := SCRATCH.fullmatch(name):
        return int(fresh[2])
    if name == STORIES:
        return 64
    folder = _local(name)
    return files.read_json(folder / "config.json").get("hidden_size") if folder else None


def files_digest(name: str) -> str:
    """What the files of a model in a folder hold, as a hash; empty where `name` is no folder of a model."""
    folder = _local(name) or (Path(name) if Path(name).is_dir() and any(Path(name).glob("tok*.bin")) else None)
    if folder is None or SCRATCH.fullmatch(name):
        return ""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def converted(name: str) -> tuple[Any, PreTrainedTokenizerBase] | None:
    """A model in the files of llama2.c and its tokeniser, or None where `name` is no folder of such: `stories260K` is one of
    the real data."""
    folder = Path(name)
    if name == STORIES and not folder.exists():
        folder = real_data(name)
    if not folder.is_dir() or not any(folder.glob("tok*.bin")):
        return None
    model, tokeniser = read_llama2c(folder)
    return unmapped(model).eval(), tokeniser


def from_scratch(width: int, layers: int, tokeniser: PreTrainedTokenizerBase) -> Any:
    """A model of Llama's shape with random weights, `heads_of` its width, and a perceptron four times as wide."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    heads = heads_of(width, layers)
    config = LlamaConfig(
        vocab_size=len(tokeniser),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokeniser.bos_token_id,
        eos_token_id=tokeniser.eos_token_id,
        pad_token_id=tokeniser.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


def video_from_scratch(width: int, layers: int, tokeniser: PreTrainedTokenizerBase) -> Any:
    """A model of Qwen2.5-VL's shape with random weights: heads of 16, as many layers to see with as to read with.

    Patches are of 4 by 4 over two frames, and four of them become one token.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    if width < 16 or width % 16 or layers < 1:
        raise BadSetting(
            f"the width of a tiny video model must be a multiple of 16, with a layer or more, got {width}x{layers}"
        )
    marks = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    image, video, start, end = (tokeniser.convert_tokens_to_ids(mark) for mark in marks)
    if video == tokeniser.unk_token_id:
        raise BadSetting(f"the task's tokeniser has no {marks[1]}, so that there is no place for a clip")
    ids = {name: getattr(tokeniser, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {
        "vocab_size": len(tokeniser),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 16,
        "num_key_value_heads": width // 16,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        **ids,
    }
    vision = {
        "depth": layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": width // 16,
        "out_hidden_size": width,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 16,
        "fullatt_block_indexes": [layers - 1],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
        **ids,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def pretrained(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A model and its tokeniser from a folder or the hub; no code that they bring is executed.

    Of a model that sees, what it sees with is not trained.

    Raises:
        BadSetting: it is a reward model.
        PalaestraError: there is no such model, or it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = model_folder(name)
    try:
        # Its description first: without a network, that alone says so, once.
        config = AutoConfig.from_pretrained(folder)
        if any(kind.endswith("ForSequenceClassification") for kind in config.architectures or ()):
            raise BadSetting(
                f"{name} is a reward model, which scores answers and gives none; methods that learn from one take it as "
                "reward_model, and what is trained is a language model"
            )
        tokeniser = load_tokeniser(folder)
        kind = AutoModelForImageTextToText if getattr(config, "vision_config", None) else AutoModelForCausalLM
        model = kind.from_pretrained(folder, config=config, dtype="float32", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise PalaestraError(f"{name} cannot be loaded as a language model: {brief(name, error)}") from None
    if hasattr(model, "model") and hasattr(model.model, "visual"):
        model.model.visual.requires_grad_(False)
    # Dropout stays off: log-probabilities are compared between passes.
    return unmapped(model).eval(), tokeniser


def load_classifier(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A sequence classifier with one output and its tokeniser, from a folder (of a run, too) or the hub.

    Raises:
        BadCheckpoint: there is none, or it lacks weights, as a causal model does a head for scores.
    """
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        folder = model_folder(name)
        model, told = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, dtype="float32", output_loading_info=True
        )
        tokeniser = load_tokeniser(folder)
    except (OSError, ValueError, RuntimeError, PalaestraError) as error:
        raise BadCheckpoint(f"no reward model could be had from {name}: {' '.join(str(error).split())[:300]}") from None
    if told["missing_keys"]:
        raise BadCheckpoint(f"{name} is no reward model: it lacks {', '.join(sorted(told['missing_keys']))}")
    return unmapped(model).eval(), tokeniser


def unmapped(model: Any) -> Any:
    """The model, with its weights in memory of their own.

    transformers maps them from their file. A file that is written over later would change them, and where a weight lies in its
    file would decide how sums are rounded, so that a model that was loaded would not say quite what the one that was saved did.
    """
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.data.clone()
    return model


def load_tokeniser(folder: str) -> PreTrainedTokenizerBase:
    """The tokeniser in a folder or on the hub.

    `AutoTokenizer` goes by the kind of model for some of them, and would read the words of a tokeniser that is none of that
    kind's letter by letter; one that is all in its file is taken from there.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    own = get_tokenizer_config(folder).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if own else AutoTokenizer).from_pretrained(folder)


def model_folder(name: str) -> str:
    """The folder that holds a model, if `name` is one of a run or of a policy, else `name` itself."""
    if folder := _local(name):
        return str(folder)
    if Path(name).exists():
        raise PalaestraError(f"{name} holds no model (config.json is missing)")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):  # a hub name is owner/model
        raise PalaestraError(
            f"there is no model {name}: it is no folder, and neither a name on the hub (owner/model) nor tiny-WIDTHxLAYERS"
        )
    return name


def _local(name: str) -> Path | None:
    """The folder of a model, where `name` is that, or the folder of a run or of a policy."""
    return next((folder for folder in (Path(name), Path(name) / "policy") if (folder / "config.json").is_file()), None)


def with_adapter(
    model: Any, rank: int, alpha: int = 0, task: str | None = "CAUSAL_LM", exclude: list[str] | None = None
) -> Any:
    """The model with LoRA adapters of a rank on all its linear layers but those to `exclude`, which alone are trained (Hu et al.
    2022). What is not trained without adapters has none.

    What they add is weighed by `alpha` over the rank; an alpha of 0 stands for twice the rank. None of it is dropped, since
    log-probabilities are compared between passes. `task` is peft's name for what the model does, if it has one; a classifier's
    (SEQ_CLS) head is trained too, whole.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise PalaestraError("adapters need peft: pip install 'palaestra[language]'") from None
    frozen = [name.removesuffix(".weight") for name, weight in model.named_parameters() if not weight.requires_grad]
    past = ["out_proj"] if model.config.model_type in MAMBAS else []
    layers: dict[str, Any] = {
        "target_modules": "all-linear",
        "exclude_modules": [*(exclude or ()), *frozen, *past] or None,
    }
    config = LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, task_type=task, **layers)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.24 by a name that is deprecated there; users can do nothing about it.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)


def brief(name: str, error: Exception) -> str:
    """Why a model could not be had, and what else would do where it was looked for on the hub."""
    instead = "" if Path(name).exists() else "; without a network, download it elsewhere and name its folder"
    return " ".join(str(error).split())[:300].rstrip(".") + instead
