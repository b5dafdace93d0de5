"""GPU and driver: what is missing, too old or broken."""

from __future__ import annotations

from server_manager.diagnosis.fixes import (
    both,
    divisible_heads,
    eager,
    fewer_gpus,
    one_gpu,
    removing,
    setting,
    setting_env,
)
from server_manager.diagnosis.rule import rule

RULES = (
    rule(
        "driver_too_old",
        r"The NVIDIA driver on your system is too old \(found version (?P<found>\d+)\)|"
        r"CUDA driver version is insufficient for CUDA runtime version|Error 804: forward|"
        r"cudaErrorInsufficientDriver|forward compatibility was attempted on non supported HW|"
        r"unsupported toolchain|cudaErrorUnsupportedPtxVersion|CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        "The NVIDIA driver is too old for the CUDA that this vLLM was built with.",
        "Update the driver (`nvidia-smi` shows the newest CUDA that it can do), or install a vLLM built for that CUDA.",
    ),
    rule(
        "driver_mismatch",
        r"Driver/library version mismatch|LIB_RM_VERSION_MISMATCH|LibRmVersionMismatch|Error 803|"
        r"unsupported display driver / cuda driver combination|cudaErrorSystemDriverMismatch",
        "The NVIDIA driver that is loaded and its libraries are of different versions, as after an update.",
        "Restart the machine; in a container restart it after the machine's driver was updated.",
    ),
    rule(
        "fabric_manager",
        r"system not yet initialized|Error 802|cudaErrorSystemNotReady|CUDA_ERROR_SYSTEM_NOT_READY|[Ff]abric "
        r"?[Mm]anager",
        "The GPUs' NVLink switches are not set up yet.",
        "Start NVIDIA's fabric manager, in the driver's own version: `systemctl start nvidia-fabricmanager`.",
    ),
    rule(
        "gpu_unavailable",
        r"CUDA-capable device\(s\) is/are busy or unavailable|cudaErrorDevicesUnavailable|device unavailable",
        "The GPU lets no further program in.",
        "Look with `nvidia-smi` what uses it and whether it is in exclusive mode (`nvidia-smi -c 0` ends that); a "
        "program that hangs on it may have to be killed.",
    ),
    rule(
        "no_gpu",
        r"Found no NVIDIA driver on your system|No CUDA GPUs are available|no CUDA-capable device is detected|"
        r"Torch not compiled with CUDA enabled|cudaErrorNoDevice|Failed to infer device type|"
        r"NVML_ERROR_(?:DRIVER_NOT_LOADED|LIBRARY_NOT_FOUND)|NVMLError_(?:DriverNotLoaded|LibraryNotFound)|"
        r"NVML Shared Library Not Found|CUDA unknown error|Driver Not Loaded|No HIP GPUs are available|"
        r"nvmlInit[^\n]*failed|CUDA initialization: (?!The NVIDIA driver)",
        "vLLM sees no GPU that it could use.",
        "Check `nvidia-smi`; in a container start it with --gpus all; look whether CUDA_VISIBLE_DEVICES hides the GPU. "
        "Without a GPU install vLLM's CPU build.",
    ),
    rule(
        "libcuda_missing",
        r"(?P<library>libcuda\.so\S*|libnvidia-ml\.so\S*|libcudart\.so\S*|libnccl\.so\S*|libcublas\S*\.so\S*|"
        r"libnvrtc\S*|"
        r"libcudnn\S*|libcusparse\S*|libamdhip64\S*): cannot open shared object file",
        "The library {library} is missing: the GPU's driver or CUDA is not (fully) installed.",
        "Install the NVIDIA driver (libcuda comes with it) or, in a container, start it with --gpus all; without a GPU "
        "install vLLM's CPU build.",
    ),
    rule(
        "wrong_device",
        r"invalid device ordinal|CUDA_VISIBLE_DEVICES[^\n]*(?:out of range|not visible)|"
        r"is out of range for (?:CUDA|HIP)_VISIBLE|"
        r"device_id \d+ is out of range|--device-ids index \d+ is out of range|"
        r"Physical device \S+ for logical device",
        "A GPU was asked for that is not there.",
        "Correct --device-ids or CUDA_VISIBLE_DEVICES, or use fewer GPUs (--tensor-parallel-size).",
        both(removing("device-ids"), one_gpu),
    ),
    rule(
        "no_kernel_for_gpu",
        r"no kernel image is available for execution on the device|cudaErrorNoKernelImageForDevice|"
        r"is not compatible with the current PyTorch installation|CUDA_ERROR_NO_BINARY_FOR_GPU|"
        r"PTX was compiled with an unsupported toolchain|sm_\d+\w* is not (?:supported|compatible)|"
        r"is not defined for option 'gpu-name'",
        "This vLLM was not built for this GPU: it has no code that runs on it.",
        "Install a vLLM build for this GPU's generation (new GPUs need a new vLLM, very old ones are no longer "
        "supported).",
    ),
    rule(
        "bfloat16_unsupported",
        r"Bfloat16 is only supported on GPUs with compute capability of at least (?P<needed>[\d.]+)\. Your "
        r"(?P<gpu>.+?) "
        r"GPU (?:has compute capability (?P<found>[\d.]+)|does)",
        "The GPU ({gpu}) cannot calculate with bfloat16, which this model uses.",
        "Use float16 instead: --dtype half.",
        setting("dtype", "half"),
    ),
    rule(
        "quantization_needs_newer_gpu",
        r"quantization method (?P<method>\S+) is not supported for the current GPU\. Minimum capability: "
        r"(?P<needed>\d+)\. Current capability: (?P<found>\d+)",
        "This GPU is too old for the quantisation {method}: it has compute capability {found}, and {needed} is needed "
        "(70 means 7.0).",
        "Take the model in another quantisation (AWQ, GPTQ) or unquantised.",
        removing("quantization"),
    ),
    rule(
        "attention_unsupported",
        r"No valid (?:MLA )?(?:attention|prefill)[^\n]*backend found|"
        r"Selected backend (?P<backend>[\w.]+) is not valid for this "
        r"configuration|FlashAttention only supports (?P<needed>[^\n]+)|Invalid attention backend|"
        r"Cannot use FlashAttention|head_size[^\n]*is not supported by|FlashAttention[^\n]*not supported|"
        r"This flash attention build does not support|FlashInfer (?:backend|requires)[^\n]*(?:not|capability)",
        "No attention kernel works on this GPU with this model and these flags.",
        "Leave the choice to vLLM (no --attention-backend, no VLLM_ATTENTION_BACKEND, --kv-cache-dtype auto), try "
        "--dtype half, or use a newer GPU.",
        removing("attention-backend", "kv-cache-dtype", "block-size"),
    ),
    rule(
        "fp8_unsupported",
        r"type fp8e4nv not supported|fp8e4nv[^\n]*not supported|torch\._scaled_mm is only supported|"
        r"FP8[^\n]*(?:requires|only supported|not supported)[^\n]*(?:capability|GPU|device|arch|H100|Hopper|Ada)|"
        r"GPU[^\n]*does not support FP8",
        "This GPU cannot calculate in FP8.",
        "Use --kv-cache-dtype auto, or the model in another quantisation (AWQ, GPTQ).",
        removing("kv-cache-dtype", "quantization"),
    ),
    rule(
        "gpu_lost",
        r"GPU is lost|has fallen off the bus|NVML_ERROR_GPU_IS_LOST|uncorrectable (?:NVLink|ECC)|\bXid\b|ECC error|"
        r"cudaErrorECCUncorrectable|hardware stack error|NVMLError_GpuIsLost",
        "The GPU reported a fault of its own, or its driver has lost it.",
        "Look at `dmesg` for a line with Xid and at `nvidia-smi`; resetting the GPU or the machine usually brings it "
        "back. If it comes again, the card or its power is at fault.",
    ),
    rule(
        "illegal_memory_access",
        r"illegal memory access|misaligned address|device-side assert triggered|illegal instruction was encountered|"
        r"cudaErrorIllegalAddress|cudaErrorAssert|an illegal instruction|warp illegal|unspecified launch failure|"
        r"cudaErrorLaunchFailure|misaligned",
        "A GPU kernel read or wrote where it must not: a fault in vLLM or a library, or flags that do not go together.",
        "Start it without CUDA graphs (--enforce-eager) to see whether it goes away; a newer vLLM may have it mended.",
        both(eager, removing("kv-cache-dtype", "speculative-config", "async-scheduling")),
    ),
    rule(
        "too_few_gpus",
        r"World size \((?P<size>\d+)\) is larger than the number of available GPUs \((?P<gpus>\d+)\)",
        "The model is to be split over {size} GPUs, and there are {gpus}.",
        "Lower --tensor-parallel-size (or --pipeline-parallel-size).",
        fewer_gpus,
    ),
    rule(
        "too_few_gpus",
        r"The number of required (?:GPU|\w+)s exceeds the total number of available (?:GPU|"
        r"\w+)s in the placement group|"
        r"Tensor parallel size may exceed available GPUs|Cannot provide a placement group|"
        r"please set tensor_parallel_size \(\d+\) to less than max local gpu count|"
        r"Error computing (?:device indices|assigned_physical_gpu_ids)|Not enough resources to allocate",
        "The model is to be split over more GPUs than there are.",
        "Lower --tensor-parallel-size (or --pipeline-parallel-size, --data-parallel-size).",
        one_gpu,
    ),
    rule(
        "heads_not_divisible",
        r"Total number of attention heads \((?P<heads>\d+)\) must be divisible by tensor parallel size "
        r"\((?P<size>\d+)\)",
        "The model's {heads} attention heads cannot be divided among {size} GPUs.",
        "Use a --tensor-parallel-size that divides {heads}.",
        divisible_heads,
    ),
    rule(
        "not_divisible",
        r"(?P<first>\d+) is not divisible by (?P<size>\d+)|"
        r"(?:output_size|input_size|The (?:input|"
        r"output) size)[\s\S]{0,80}?(?P<part>\d+)[\s\S]{0,60}?is not (?:aligned|"
        r"divisible)[\s\S]{0,80}?(?:quantiz|min_thread)",
        "A part of the model cannot be divided among that many GPUs.",
        "Use a smaller --tensor-parallel-size.",
        one_gpu,
        when=lambda clues: clues.option("tensor-parallel-size") > 1,
    ),
    rule(
        "numa_on_cpu",
        r"Not enough allowed NUMA nodes to bind threads of (?P<workers>\d+)",
        "On this CPU the model cannot be split: it has too few NUMA nodes for {workers} workers.",
        "Use --tensor-parallel-size 1 on a CPU.",
        one_gpu,
    ),
    rule(
        "nccl",
        r"NCCL error|ncclUnhandledCudaError|ncclSystemError|ncclInternalError|ncclInvalidUsage|ncclRemoteError|"
        r"DistBackendError|ProcessGroupNCCL|NCCL WARN|Watchdog caught collective operation timeout",
        "The GPUs could not talk to each other (NCCL).",
        "Look further up for a first error of another GPU. Otherwise NCCL_DEBUG=INFO says more; NCCL_P2P_DISABLE=1 or "
        "--disable-custom-all-reduce helps where GPUs have no direct link.",
        both(setting_env("NCCL_P2P_DISABLE", "1"), setting("disable-custom-all-reduce", True)),
        weak=True,
    ),
    rule(
        "custom_all_reduce",
        r"custom_all_reduce|ipc_collective|cudaIpcOpenMemHandle|CustomAllreduce",
        "The GPUs could not share memory for the fast all-reduce.",
        "Start it with --disable-custom-all-reduce.",
        setting("disable-custom-all-reduce", True),
    ),
    rule(
        "cuda_error",
        r"CUDA error: (?P<error>[^\n]+)|CUDA runtime error[:,]? (?P<runtime>[^\n]+)|CUBLAS_STATUS_\w+|"
        r"CUDNN_STATUS_\w+|"
        r"CUDA driver error: (?P<driver>[^\n]+)|HIP error: (?P<hip>[^\n]+)",
        "The GPU reported an error to vLLM.",
        "Start it without CUDA graphs (--enforce-eager) to see whether it goes away; look at `dmesg` for a line with "
        "Xid; a newer driver or vLLM may have it mended.",
        eager,
    ),
)
