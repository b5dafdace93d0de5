"""What the model is, and what its flags ask of it."""

from __future__ import annotations

from server_manager.diagnosis.fixes import (
    batch_as_long_as_context,
    derived_context,
    nearest_choice,
    removing,
    setting,
    trust_remote_code,
)
from server_manager.diagnosis.rule import is_complaint, rule

RULES = (
    rule(
        "unsupported_architecture",
        r"Model architectures? \[?'?(?P<architecture>[\w.]+)[^\n]*? (?:are|is) not supported for now|"
        r"Cannot find model module\. '(?P<module>\w+)'|"
        r"Model architecture (?P<old>\w+) (?:was supported in vLLM until|is not "
        r"supported)|The Transformers implementation of '(?P<implementation>\w+)' is not compatible|"
        r"(?P<class>\w+) has no vLLM implementation",
        "This vLLM does not know the model's architecture ({architecture}).",
        "Use a newer vLLM, or another model; some architectures that are gone need an older vLLM.",
        defaults={"architecture": "see the line below"},
    ),
    rule(
        "unknown_model_type",
        r"has model type `(?P<type>[^`]+)` but Transformers does not recognize this architecture|"
        r"Unrecognized model in (?P<where>\S+)|"
        r"Should have a `model_type` key|"
        r"model type `?(?P<other>[\w-]+)`? is not supported",
        "The installed Transformers library does not know the model type {type}.",
        "Update Transformers (or vLLM, which brings it). If the model has code of its own, --trust-remote-code may do.",
        trust_remote_code,
        defaults={"type": "of config.json"},
    ),
    rule(
        "transformers_too_old",
        r"Transformers version[^\n]*(?:required|needed|at least|too old)|requires transformers|"
        r"cannot import name '(?P<name>\w+)' from 'transformers|module '?transformers[\w.]*'? has no attribute|"
        r"(?:upgrade|update)[^\n]{0,30}`?transformers`?|need at least transformers|transformers==?[^\n]*is required",
        "The installed Transformers library does not fit this vLLM or this model.",
        "Install the version that vLLM asks for: `pip install -U transformers`, or install vLLM anew.",
    ),
    rule(
        "architecture_not_inspected",
        r"Model architectures [^\n]* failed to be inspected",
        "The model's code in vLLM could not be loaded.",
        "The log says why further up (often a library that is missing or does not fit); installing vLLM anew "
        "helps most "
        "often.",
        weak=True,
    ),
    rule(
        "max_model_len_too_large",
        r"User-specified max_model_len \((?P<length>\d+)\) is greater than the derived max_model_len "
        r"\((?:[^)=]*=)?(?P<derived>\d+(?:\.\d+)?)",
        "The context of {length} tokens is longer than the model can handle ({derived}).",
        "Lower --max-model-len, or leave it out.",
        derived_context,
    ),
    rule(
        "batch_shorter_than_context",
        r"max_num_batched_tokens \((?P<batch>\d+)\) is smaller than max_model_len \((?P<length>\d+)\)",
        "The context has {length} tokens, and only {batch} may be processed at once.",
        "Raise --max-num-batched-tokens, or lower --max-model-len.",
        batch_as_long_as_context,
    ),
    rule(
        "batch_smaller_than_sequences",
        r"max_num_batched_tokens \((?P<batch>\d+)\) must be greater than or equal to max_num_seqs "
        r"\((?P<sequences>\d+)\)",
        "Up to {sequences} requests at once need as many tokens at once, and {batch} are allowed.",
        "Raise --max-num-batched-tokens, or lower --max-num-seqs.",
        lambda clues: setting("max-num-seqs", clues.facts["batch"])(clues),
    ),
    rule(
        "quantization_mismatch",
        r"Quantization method specified in the model config \((?P<model>[^)]+)\) does not match the "
        r"quantization method "
        r"specified in the `quantization` argument \((?P<given>[^)]+)\)",
        "The model is quantised with {model}, and --quantization says {given}.",
        "Leave --quantization out: vLLM reads the method from the model.",
        removing("quantization"),
    ),
    rule(
        "quantization_unknown",
        r"Unknown quantization method: (?P<value>[^.\n]+)\. Must be one of (?P<choices>[^\n]+)",
        "vLLM does not know the quantisation {value}.",
        "Leave --quantization out (vLLM reads the method from the model), or correct the name.",
        nearest_choice("quantization"),
    ),
    rule(
        "quantization_unknown",
        r"Unknown quantization method|Invalid quantization method",
        "vLLM does not know the model's quantisation.",
        "Use a newer vLLM, or the model in another quantisation (AWQ, GPTQ, FP8).",
        removing("quantization"),
    ),
    rule(
        "quantization_without_config",
        r"Cannot find the config file for (?P<method>\w+)|Model quantization method is not specified|"
        r"Unsupported quantization config found",
        "--quantization asks for a method, and the model is not quantised with it.",
        "Leave --quantization out, or take a model that is quantised so.",
        removing("quantization"),
    ),
    rule(
        "quantization_dtype",
        r"(?P<dtype>torch\.\w+) is not supported for quantization method (?P<method>\S+)\. Supported dtypes: "
        r"\[(?P<choices>[^\]]+)\]",
        "The quantisation {method} does not work with {dtype}.",
        "Use --dtype half.",
        setting("dtype", "half"),
    ),
    rule(
        "quantization_unsupported",
        r"(?P<method>\S+) quantization is currently not supported (?:in|on) (?P<device>[^.\n]+)|"
        r"quantization method \S+ is deprecated|The quantization method [^\n]*not supported|"
        r"(?:bitsandbytes|BitsAndBytes)[^\n]*(?:not supported|required|install)|install bitsandbytes|"
        r"quantization[^\n]*is not (?:yet )?supported",
        "The model's quantisation does not work here.",
        "Take the model in another quantisation (AWQ, GPTQ, FP8) or unquantised.",
        removing("quantization"),
    ),
    rule(
        "gguf_unsupported",
        r"vllm-gguf-plugin|gguf[^\n]*(?:plugin|not supported|is required|not installed)|GGUF[^\n]*(?:plugin|"
        r"not supported|install)|"
        r"Unknown gguf model_type",
        "vLLM cannot read this GGUF file.",
        "Use the model's *.safetensors, or install vLLM's GGUF plugin (`pip install vllm-gguf-plugin`).",
    ),
    rule(
        "dtype_unsupported",
        r"The model type '(?P<type>[^']+)' does not support float16\. Reason: (?P<reason>[^\n]+)",
        "The model does not work with float16.",
        "Use --dtype bfloat16 (or float32 on an old GPU).",
        setting("dtype", "bfloat16"),
    ),
    rule(
        "sleep_unsupported",
        r"Sleep mode is not supported on current platform|cumem allocator is not supported",
        "Sleep mode works on a GPU only.",
        "Leave --enable-sleep-mode out.",
        removing("enable-sleep-mode", "enable-cumem-allocator"),
    ),
    rule(
        "sleep_expandable_segments",
        r"Expandable segments are not compatible with memory pool",
        "Sleep mode does not go together with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.",
        "Remove that variable, or leave --enable-sleep-mode out.",
        removing("enable-sleep-mode"),
    ),
    rule(
        "pipeline_unsupported",
        r"Pipeline parallelism is not supported for this model",
        "The model cannot be split layer by layer (--pipeline-parallel-size).",
        "Use --tensor-parallel-size instead.",
        removing("pipeline-parallel-size"),
    ),
    rule(
        "not_generative",
        r"This model does not support `--runner generate`|This model does not support generation|"
        r"does not support `--task generate`",
        "This model answers no chats: it is one for embeddings or classification.",
        "Take another model, or leave --runner out.",
        removing("runner", "task"),
    ),
    rule(
        "not_pooling",
        r"This model does not support `--runner pooling`|does not support any pooling tasks|"
        r"Embedding models do not support `--runner",
        "This model does not fit the --runner that was asked for.",
        "Leave --runner out.",
        removing("runner", "task", "convert"),
    ),
    rule(
        "not_multimodal",
        r"The model is not multimodal|is not a multimodal model|Default modality-specific LoRA",
        "The flags speak of images, audio or video, and this model takes text alone.",
        "Leave those flags out.",
        removing("limit-mm-per-prompt", "mm-processor-kwargs", "language-model-only", "default-mm-loras"),
    ),
    rule(
        "multimodal_limit",
        r"(?:mm|multi-?modal)[\s\S]*?exceeds[\s\S]*?(?:limit|cache|tokens|max_num_batched_tokens)|"
        r"limit-mm-per-prompt|"
        r"limit_mm_per_prompt|exceeds the pre-allocated encoder cache size|max_tokens_per_mm_item",
        "Images, audio or video do not fit into what is processed at once.",
        "Allow fewer or smaller ones (--limit-mm-per-prompt), or raise --max-num-batched-tokens.",
        removing("limit-mm-per-prompt"),
        when=is_complaint,
    ),
    rule(
        "speculative_config",
        r"[Ss]peculative|draft[_ ]model|num_speculative_tokens|prompt_lookup_m(?:ax|in)|EAGLE|eagle3|"
        r"Target and draft model|"
        r"Arctic Inference is required|synthetic_acceptance",
        "Speculative decoding is not set up rightly for this model.",
        "Correct --speculative-config, or start it without.",
        removing("speculative-config", "speculative-model", "num-speculative-tokens"),
        when=is_complaint,
    ),
    rule(
        "parallel_config",
        r"Invalid data-parallel launch options|data_parallel_size_local|data_parallel_\w+|"
        r"Non-MoE models do not support|"
        r"nnodes|decode-context-parallel|[Ee]xpert parallelism|EPLB|enable_expert_parallel|--node-rank",
        "The flags for several GPUs or machines do not go together.",
        "Correct them (the line above says which); for a model that fits one machine --tensor-parallel-size "
        "alone does.",
        removing("data-parallel-size", "data-parallel-size-local", "enable-expert-parallel", "nnodes", "node-rank"),
        when=is_complaint,
    ),
    rule(
        "runner_v2_unsupported",
        r"Model Runner V2 (?:does not yet support|requires)|requires Model Runner V2|"
        r"Model Runner V1 does not support",
        "The flags do not go together with vLLM's model runner.",
        "Leave VLLM_USE_V2_MODEL_RUNNER unset, or remove the flag that the line names.",
    ),
)
