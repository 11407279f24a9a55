"""What a figure depends on and must travel with it: versions and hardware."""

import os
import platform
import subprocess
from typing import Any


def describe() -> dict[str, Any]:
    """Versions of Python, torch, vLLM, the plugin and the driver, and the device that vLLM runs on."""
    from importlib.metadata import PackageNotFoundError, version

    import torch
    import vllm
    from vllm.platforms import current_platform

    try:
        plugin: str | None = version("vllm-kivi")
    except PackageNotFoundError:
        plugin = None
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "plugin": plugin,
        "platform": current_platform.device_type,
        "device": _device(current_platform),
        "driver": _driver() if current_platform.device_type == "cuda" else None,
        "device_count": torch.cuda.device_count() if current_platform.device_type == "cuda" else 0,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "os": platform.platform(),
    }


def load() -> dict[str, Any]:
    """Processes that ran or waited for a CPU in the last minute, on average, and the CPUs that there are for all."""
    return {"load": os.getloadavg()[0], "cpus": os.cpu_count() or 1}


def _driver() -> str | None:
    """Version of NVIDIA's driver, which no library in the process tells."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.splitlines()[0].strip() if told.strip() else None


def _device(current_platform: Any) -> str:
    if current_platform.device_type != "cpu":
        return str(current_platform.get_device_name(0))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
