"""Ports, sockets and addresses."""

from __future__ import annotations

import re

from server_manager.diagnosis.fixes import longer_patience, removing
from server_manager.diagnosis.rule import Clues, rule

_NAMED_PORT = re.compile(r"\bport: (?P<port>\d+)|addr='tcp://[^']*:(?P<zmq>\d+)'|\('[\d.:]*', (?P<bound>\d+)\)")


def _port(clues: Clues) -> dict[str, object]:
    """The port that was asked for, where the message does not name it."""
    if named := _NAMED_PORT.search(clues.message):  # of PyTorch or ZeroMQ: not the one that vLLM serves at
        return {"port": f"Port {named['port'] or named['zmq'] or named['bound']}"}
    uds, port = clues.options.get("uds"), clues.options.get("port")
    return {"port": f"The socket {uds}" if uds else f"Port {port}" if port else "The port"}


RULES = (
    rule(
        "port_in_use",
        r"\[Errno 98\][^\n]*|[Aa]ddress already in use|EADDRINUSE|error while attempting to bind on address",
        "{port} is in use already.",
        "Stop the program that has it, or use another port (without --port vLLM Deck picks a free one). A socket file "
        "(--uds) that was left has to be removed.",
        removing("port", "uds"),
        more=_port,
    ),
    rule(
        "port_forbidden",
        r"\[Errno 13\] (?:Permission denied|error while attempting to bind on address)(?!: ')",
        "{port} may be used by the administrator alone.",
        "Use a port from 1024 on.",
        removing("port"),
        more=_port,
        when=lambda clues: "bind" in clues.text or clues.passed_through("create_server_socket", "setup_server"),
    ),
    rule(
        "bad_address",
        r"\[Errno 99\]|Cannot assign requested address|(?:socket\.)?gaierror: \[Errno -\d+\]|"
        r"Could not find open port|Neither 127\.0\.0\.1 nor ::1",
        "The address to listen on does not belong to this machine.",
        "Correct --host (or VLLM_HOST_IP); without it vLLM listens on all addresses.",
        removing("host", "master-addr", "data-parallel-address"),
    ),
    rule(
        "socket_path_too_long",
        r"AF_UNIX path too long|ipc path [^\n]*is longer than|File name too long",
        "The path of a socket is too long.",
        "Give vLLM a short TMPDIR (under 60 characters), or a short --uds.",
    ),
    rule(
        "tls_files",
        r"ssl\.SSLError[^\n]*(?:PEM|KEY|CERT)|\[SSL[^\n]*(?:PEM|KEY_VALUES|CERTIFICATE)|load_cert_chain",
        "The certificate or its key cannot be read.",
        "Check --ssl-certfile and --ssl-keyfile.",
        removing("ssl-certfile", "ssl-keyfile"),
    ),
    rule(
        "engine_timeout",
        r"Timed out waiting for (?:new )?engine core processes to start[\s\S]*?Waited (?P<seconds>\d+)|"
        r"Did not receive response from front-end process within (?P<minutes>\d+) minutes|"
        r"Timed out waiting for engine|timed out waiting for[^\n]*engine",
        "The engine was not ready in time.",
        "Large weights from a slow disk take long: give it more time with VLLM_ENGINE_READY_TIMEOUT_S.",
        longer_patience,
    ),
    rule(
        "execution_timeout",
        r"RPC call to (?P<method>\w+) timed out|Timed out waiting for sample_tokens|execute_model[\s\S]*timed out",
        "The GPU workers did not answer in time ({method}).",
        "Look further up for an error of one worker; a GPU or NCCL that hangs is the usual reason.",
        defaults={"method": "execute_model"},
        weak=True,
    ),
    rule(
        "distributed_connection",
        r"DistNetworkError|DistStoreError|TCPStore|gloo|Gloo|connectFullMesh|Connection closed by peer|"
        r"The client socket has (?:timed out|failed)|Timed out after \d+ seconds waiting for clients",
        "vLLM's processes could not reach each other.",
        "With one machine set VLLM_HOST_IP=127.0.0.1 (a firewall or VPN may be in the way); with several check "
        "--master-addr, --master-port and that all of them run.",
        weak=True,
    ),
    rule(
        "ray",
        r"ray\.exceptions|Ray (?:backend|version|Compiled)|install ray|import Ray|No module named 'ray'|ray\.init|"
        r"Current node has no \w+ available|Every node should have a unique IP",
        "Ray, which is to run vLLM's workers, did not work.",
        "For GPUs of one machine leave --distributed-executor-backend ray out.",
        removing("distributed-executor-backend"),
        weak=True,
    ),
)
