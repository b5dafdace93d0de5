"""What is installed: Python packages, libraries, compilers, limits of the system."""

from __future__ import annotations

from server_manager.diagnosis.fixes import eager, removing, setting_env
from server_manager.diagnosis.rule import Clues, is_complaint, rule

_PACKAGES = {
    "google": "protobuf",
    "google.protobuf": "protobuf",
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "flash_attn": "flash-attn",
    "bitsandbytes": "bitsandbytes",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "einops": "einops",
    "timm": "timm",
    "librosa": "librosa",
    "soundfile": "soundfile",
    "mamba_ssm": "mamba-ssm",
    "decord": "decord",
    "yaml": "pyyaml",
}


def _package(clues: Clues) -> dict[str, object]:
    name = str(clues.facts.get("module") or clues.facts.get("library") or clues.facts.get("other") or "")
    name = name.strip("`'\" ")
    return {"package": _PACKAGES.get(name) or _PACKAGES.get(name.split(".")[0]) or name.split(".")[0] or "it"}


RULES = (
    rule(
        "tokenizer_library_missing",
        r"requires the (?P<library>SentencePiece|protobuf|tiktoken|Tiktoken) library|"
        r"(?:need|install|have)[^\n]{0,40}(?P<other>sentencepiece|protobuf|tiktoken)[^\n]*(?:install|tokenizer)",
        "A Python package that this model's tokenizer needs is not installed ({package}).",
        "Install it beside vLLM: `pip install sentencepiece protobuf tiktoken`.",
        more=lambda clues: {"package": str(clues.facts.get("library") or clues.facts.get("other") or "").lower()},
    ),
    rule(
        "vllm_missing",
        r"No module named '?vllm'?(?:$|[^.\w])|vllm: (?:command )?not found|No module named vllm",
        "vLLM is not installed in the Python that was used.",
        "Install it there, or set DECK_VLLM_PYTHON to the Python that has it.",
    ),
    rule(
        "vllm_broken",
        r"No module named 'vllm\.[^']+'|cannot import name '[^']+' from (?:partially initialized module )?'vllm|"
        r"module 'torch\.ops\._C\w*' has no attribute|'_OpNamespace' '_\w+' object has no attribute|"
        r"No package metadata was found for vllm|torchvision::nms does not exist|operator torchvision::",
        "vLLM's installation is damaged, or parts of it are of different versions.",
        "Install vLLM anew into an empty environment.",
    ),
    rule(
        "abi_mismatch",
        r"undefined symbol: (?P<symbol>\S+)|version `(?P<version>(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found|"
        r"binary incompatibility|compiled (?:using|against) (?:NumPy|numpy|a different)|numpy\.dtype size changed|"
        r"A module that was compiled using NumPy 1\.x",
        "Compiled parts that do not fit each other are installed (PyTorch and vLLM of different versions, or a system "
        "that is too old).",
        "Install vLLM anew into an empty environment, with the PyTorch that it asks for; GLIBC needs a newer "
        "system or a "
        "container.",
    ),
    rule(
        "library_missing",
        r"(?P<library>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "The system library {library} is missing.",
        "Install the package that has it.",
    ),
    rule(
        "module_missing",
        r"(?:ModuleNotFoundError|ImportError): No module named '?(?P<module>[\w.]+)'?|"
        r"requires the following packages that were not found in your environment: (?P<other>[^\n]+?)(?:\. Run|$)|"
        r"(?:Please install|install) (?P<library>[\w.\[\]-]+) (?:via|with|using|by)",
        "A Python package is not installed: {package}.",
        "Install it beside vLLM: `pip install {package}`.",
        more=_package,
    ),
    rule(
        "user_unknown",
        r"getpwuid\(\): uid not found: (?P<uid>\d+)",
        "This user (uid {uid}) has no name on this system, as happens in containers.",
        "Set USER and HOME (and TORCHINDUCTOR_CACHE_DIR) for vLLM.",
        setting_env("USER", "vllm"),
    ),
    rule(
        "lscpu_missing",
        r"Command 'lscpu|No such file or directory: 'lscpu'",
        "vLLM asks the program lscpu for the processor's cores, and it is missing.",
        "Install it (Debian and Ubuntu: `apt install util-linux`), or add its folder to PATH.",
    ),
    rule(
        "compiler_missing",
        r"Failed to find C compiler|InvalidCxxCompiler|No working C\+\+ compiler found|"
        r"No such file or directory: '(?P<compiler>(?:/\S*/)?(?:g\+\+|gcc|cc|c\+\+|clang\S*|nvcc))'|"
        r"(?:g\+\+|gcc|cc|nvcc)['\"]?[^\n]*not found|Could not find nvcc|CUDA_HOME environment variable is not set|"
        r"Please specify via CC environment variable|Ninja is required|RuntimeError: Ninja build|"
        r"ninja[^\n]*(?:not found|No such file)",
        "vLLM wants to compile code for this machine, and there is no compiler.",
        "Install one (Debian and Ubuntu: `apt install build-essential`; for nvcc the CUDA toolkit), or start it with "
        "--enforce-eager, which compiles nothing.",
        eager,
    ),
    rule(
        "python_headers_missing",
        r"fatal error: (?P<header>Python\.h)|Python\.h: No such file",
        "vLLM wants to compile code for this machine, and Python's headers are missing.",
        "Install them (`apt install python3-dev`), or start it with --enforce-eager.",
        eager,
    ),
    rule(
        "compile_cache",
        r"(?:torch_compile_cache|torchinductor|inductor|triton/cache|"
        r"\.triton)[\s\S]{0,300}?(?:Permission denied|No such file|corrupt|"
        r"Stale file handle|EOFError|JSONDecodeError)",
        "The folder for compiled code cannot be used.",
        "Delete ~/.cache/vllm, ~/.triton and torchinductor_* in the temporary folder; they are made anew.",
        eager,
    ),
    rule(
        "compile_failed",
        r"torch\._inductor\.exc|torch\._dynamo\.exc|InductorError|BackendCompilerFailed|CppCompileError|"
        r"LoweringException|"
        r"triton\.(?:runtime\.errors|compiler\.errors)|CompilationError|OutOfResources|PTXASError|"
        r"Dynamo failed|torch\._dynamo|Internal Triton PTX codegen error|"
        r"subprocess\.CalledProcessError[^\n]*(?:gcc|g\+\+|nvcc|ptxas|ninja)",
        "Compiling the model for this machine failed.",
        "Start it with --enforce-eager, which compiles nothing (answers are slower); a newer vLLM may have it mended.",
        eager,
    ),
    rule(
        "open_files",
        r"Too many open files|\[Errno 24\]",
        "vLLM may not open as many files as it needs (ulimit -n).",
        "Raise the limit before the start: `ulimit -n 65536`, in a container --ulimit nofile=65536.",
    ),
    rule(
        "too_many_processes",
        r"can't start new thread|Resource temporarily unavailable|pthread_create failed|\[Errno 11\]|"
        r"OpenBLAS blas_thread_init",
        "vLLM may not start as many threads or processes as it needs.",
        "Raise the limit (`ulimit -u`, in a container --pids-limit), or lower OMP_NUM_THREADS.",
        setting_env("OMP_NUM_THREADS", "8"),
    ),
    rule(
        "spawn_needed",
        r"Cannot re-initialize CUDA in forked subprocess|"
        r"before the current process has finished its bootstrapping phase",
        "vLLM's processes were started in a way that does not go together with CUDA.",
        "Set VLLM_WORKER_MULTIPROC_METHOD=spawn.",
        setting_env("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),
    ),
    rule(
        "cpu_instructions",
        r"(?:avx|AVX|amx|AMX)\S*[^\n]*(?:not supported|required|unsupported)|Unsupported CPU|"
        r"CPU backend[^\n]*(?:requires|only supports)",
        "The processor lacks instructions that this vLLM build uses.",
        "Install a vLLM CPU build for this processor (vLLM's own needs AVX-512).",
    ),
    rule(
        "file_permission",
        r"(?:PermissionError: )?\[Errno 13\] Permission denied: '(?P<path>[^']+)'|"
        r"\[Errno 30\] Read-only file system(?:: '(?P<folder>[^']+)')?",
        "vLLM may not read or write {path}.",
        "Give this user the file or folder (`ls -l` shows whose it is).",
        defaults={"path": "a file that it needs"},
    ),
    rule(
        "structured_outputs",
        r"xgrammar|outlines|llguidance|guided decoding backend",
        "The library for structured output did not work.",
        "Leave the choice to vLLM: no --structured-outputs-config.",
        removing("structured-outputs-config", "guided-decoding-backend"),
        when=is_complaint,
    ),
    rule(
        "kv_connector",
        r"kv[_-]connector|KV connector|NixlConnector|LMCache|[Nn]ixl|kv-transfer-config|Mooncake",
        "The connector that passes the KV cache on did not start.",
        "Check --kv-transfer-config and whether its package is installed, or start it without.",
        removing("kv-transfer-config", "kv-offloading-size"),
        when=is_complaint,
    ),
)
