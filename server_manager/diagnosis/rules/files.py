"""The model's own files: weights, tokenizer, config, chat template, adapters."""

from __future__ import annotations

import re

from server_manager.diagnosis.fixes import (
    ask_env,
    lora_rank,
    other_sources,
    removing,
    setting,
    trust_remote_code,
)
from server_manager.diagnosis.report import Fix
from server_manager.diagnosis.rule import Clues, rule

_HUB_SAYS = re.compile(r"(?:401|403) Client Error|GatedRepoError|Cannot access gated repo|Repository Not Found")
_UNREACHABLE = re.compile(
    r"Connection refused|Name or service not known|Temporary failure in name resolution|Network is unreachable|"
    r"ConnectError|ConnectTimeout|ConnectionError|Max retries exceeded"
)


def _is_folder(clues: Clues) -> bool:
    return str(clues.facts.get("folder", "")).startswith(("/", "./", "../", "~"))


def _token(clues: Clues) -> list[Fix]:
    return [ask_env("HF_TOKEN")]


RULES = (
    rule(
        "path_missing",
        r"Repo id must (?:be in the form|use alphanumeric)[\s\S]*?'(?P<folder>[/.~][^']*)'",
        "There is no folder {folder}.",
        "Correct the path, or put the files there.",
    ),
    rule(
        "bad_repo_name",
        r"Repo id must (?:be in the form|use alphanumeric|be less than)[\s\S]*?'(?P<repo>[^']+)'(?:\. Use|\.|"
        r"$)|HFValidationError",
        "{repo} is neither a folder nor the name of a model.",
        "Write it as owner/name (Qwen/Qwen3-0.6B), or as the path of a folder.",
        defaults={"repo": "The model"},
    ),
    rule(
        "no_config",
        r"Invalid repository ID or local directory specified: '(?P<folder>[^']+)'",
        "The folder {folder} holds no model: it has no config.json.",
        "Point the model at the folder that has config.json and the *.safetensors files (with a hub's cache that is "
        "…/snapshots/…).",
        when=_is_folder,
    ),
    rule(
        "hub_refuses_config",
        r"Invalid repository ID or local directory specified: '(?P<repo>[^']+)'",
        "Hugging Face has no model {repo}, or does not let this user see it.",
        "Check the spelling. For a private or gated model start with a token that may read it (HF_TOKEN).",
        _token,
        when=lambda clues: clues.story.last_match(_HUB_SAYS) is not None,
    ),
    rule(
        "hub_unreachable_for_config",
        r"Invalid repository ID or local directory specified: '(?P<repo>[^']+)'",
        "The config of {repo} could not be read: the model's source cannot be reached from here.",
        "Check the network and the proxy, or take another source: a mirror of Hugging Face, ModelScope, or a folder.",
        other_sources,
        when=lambda clues: clues.story.last_match(_UNREACHABLE) is not None,
    ),
    rule(
        "no_config_at_hub",
        r"Invalid repository ID or local directory specified: '(?P<repo>[^']+)'|"
        r"Could not detect config format for no config file found|"
        r"(?P<where>\S+) does not appear to have a file named config\.json|No model config (?:was )?found",
        "vLLM found no config.json for {repo}.",
        "Check the name; a repository with GGUF files alone or an adapter (LoRA) is not a model that vLLM can serve by "
        "itself.",
        defaults={"repo": "the model"},
    ),
    rule(
        "bad_config",
        r"It looks like the config file at '(?P<file>[^']+)' is not a valid JSON|"
        r"(?:JSONDecodeError|json\.decoder)[\s\S]*?(?:Expecting|Extra data|Invalid|Unterminated)",
        "A JSON file of the model is broken.",
        "Download the model's config files again.",
    ),
    rule(
        "config_contradicts",
        r"StrictDataclass\w*Error[^\n]*\n\s*(?:\w+: )?(?P<problem>[^\n]+)",
        "The model's config.json contradicts itself: {problem}",
        "Take the config.json that belongs to the weights; --hf-overrides may have changed it.",
        removing("hf-overrides"),
    ),
    rule(
        "no_weights",
        r"Cannot find any (?:safetensors )?model weights with `(?P<folder>[^`]+)`",
        "{folder} holds no weights.",
        "Download it again: the *.safetensors files are missing.",
    ),
    rule(
        "weights_missing",
        r"Weight files referenced in index but missing: (?P<files>.+)|"
        r"(?:FileNotFoundError|No such file or directory)[^\n]*?(?P<file>\S+\.(?:safetensors|bin|pt|gguf))",
        "Some of the model's weight files are missing.",
        "Download the model again; the download was not finished.",
    ),
    rule(
        "weights_are_pointers",
        r"header too large|HeaderTooLarge|invalid load key, 'v'|InvalidHeaderDeserialization",
        "A weight file is not what its name says: often a Git LFS pointer of some bytes in place of the weights.",
        "Download the model again (`hf download`, or `git lfs pull` in the folder).",
    ),
    rule(
        "weights_corrupt",
        r"SafetensorError|Error while deserializing header|incomplete metadata, file not fully covered|"
        r"MetadataIncompleteBuffer|"
        r"PytorchStreamReader failed|invalid load key|UnpicklingError|unexpected EOF|file (?:is|might be) corrupted|"
        r"not a ZIP archive|failed finding central directory|Consistency check failed|InvalidHeader",
        "A weight file is damaged or was cut off.",
        "Delete it and download the model again.",
    ),
    rule(
        "weights_mismatch",
        r"Following weights were not initialized from checkpoint|"
        r"There is no module or parameter named '(?P<name>[^']+)'|"
        r"size mismatch for|The size of tensor a \(\d+\) must match[\s\S]*?load|"
        r"Attempted to load weight \((?P<given>[^)]*\)?)\) into parameter|"
        r"KeyError: '(?:model\.)?layers\.\d+\.[\w.]+'|assert param(?:_data)?\.(?:size|shape)\(?\)? == loaded_weight",
        "The weights do not belong to the model that config.json describes.",
        "Check that all files come from one model and one revision; a quantised model may need another "
        "--quantization, and a very new one a newer vLLM.",
        removing("quantization", "load-format", "hf-overrides"),
    ),
    rule(
        "no_tokenizer",
        r"Couldn't instantiate the backend tokenizer|Can't load (?:the )?tokenizer for '(?P<repo>[^']+)'|"
        r"Unable to load vocabulary from file|does not appear to have a file named tokenizer|"
        r"Could not find tiktoken\.model|tiktoken\.model not found|tekken\.json|"
        r"(?:expected str, bytes or os\.PathLike object, not NoneType)|No tokenizer (?:file )?found|"
        r"Tokenizer class (?P<kind>\S+) does not exist or is not currently imported",
        "The model's tokenizer is missing or cannot be read.",
        "Add the tokenizer's files (tokenizer.json, tokenizer_config.json) to the folder, or take that of "
        "another model "
        "with --tokenizer.",
        removing("tokenizer", "tokenizer-mode"),
    ),
    rule(
        "trust_remote_code",
        r"requires you to execute the (?:configuration|tokenizer|modeling) file|"
        r"contains custom code which must be executed|"
        r"consider setting[\s\S]{0,20}trust_remote_code|(?:set|pass|Please pass)[\s\S]{0,40}trust_remote_code=True|"
        r"trust_remote_code[\s\S]{0,40}to remove this error|using the `--trust-remote-code` flag",
        "The model comes with Python code of its own, which vLLM runs only if you allow it.",
        "Read that code in the model's repository. If you trust it, start it with --trust-remote-code.",
        trust_remote_code,
    ),
    rule(
        "chat_template_missing_file",
        r"The supplied chat template (?:string )?\((?P<template>[^)]*)\) (?:appears path-like, but doesn't "
        r"exist|looks like a "
        r"file path)|the supplied chat template path doesn't exist",
        "There is no chat template {template}.",
        "Correct --chat-template, or leave it out: most models bring their own.",
        removing("chat-template"),
        defaults={"template": "at that path"},
    ),
    rule(
        "chat_template_broken",
        r"jinja2\.exceptions\.\w+|TemplateSyntaxError|(?:chat[_ ]template)[\s\S]*?(?:is not a valid|syntax error)|"
        r"is not a valid chat template",
        "The chat template has a mistake.",
        "Correct the file of --chat-template, or leave it out: most models bring their own.",
        removing("chat-template", "chat-template-content-format"),
    ),
    rule(
        "no_chat_template",
        r"default chat template is no longer allowed|"
        r"Cannot use chat template functions because tokenizer\.chat_template is "
        r"not set|ChatTemplateResolutionError",
        "The model has no chat template: it was not made for chats.",
        "Take the model's variant that ends in -Instruct or -Chat, or give it a template with --chat-template.",
    ),
    rule(
        "lora_rank",
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<most>\d+)",
        "The adapter (LoRA) has rank {rank}, and at most {most} is allowed.",
        "Raise --max-lora-rank.",
        lora_rank,
    ),
    rule(
        "lora_path",
        r"(?:LoRA adapter|lora)[\s\S]{0,200}?(?:No adapter found|not found|does not exist|No such file)|"
        r"No adapter found for (?P<path>\S+)|LoRAAdapterNotFoundError|Loading lora (?P<name>\S+) failed|"
        r"adapter_config\.json|doesn't contain tensors",
        "An adapter (LoRA) could not be loaded.",
        "Check the paths in --lora-modules: each must be a folder with adapter_config.json and "
        "adapter_model.safetensors.",
        removing("lora-modules"),
    ),
    rule(
        "lora_unsupported",
        r"does not support LoRA|is not supported for LoRA|is unsupported LoRA weight|expected target modules in|"
        r"vLLM does not (?:yet )?support (?:DoRA|LoRA|Activated LoRA|layer_replication|block-diagonal|QALoRA)|"
        r"Adapter bias is not supported|When using LoRA, vocab size|LoRA is not enabled",
        "vLLM cannot use this adapter (LoRA) with this model.",
        "Merge the adapter into the model, or start it without.",
        removing("lora-modules", "enable-lora"),
    ),
    rule(
        "lora_not_enabled",
        r"lora[\s\S]*?--enable-lora",
        "Adapters (LoRA) are given, and --enable-lora is missing.",
        "Add --enable-lora.",
        setting("enable-lora", True),
    ),
)
