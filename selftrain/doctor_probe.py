"""What torch says of this machine, asked in a process of its own, as lines of JSON on stdout.

It takes seconds to import, and a torch that does not fit its torchvision may even crash. The one
argument is JSON: networks as the arguments of `build_network`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = (".pth", ".pt", ".safetensors")


def probe(networks: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield versions and GPUs, and of each network its numbers and its weights' file."""
    import torch

    yield {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "gpus": [_describe_gpu(number) for number in range(torch.cuda.device_count())],
    }
    import torchvision

    yield {"torchvision": torchvision.__version__}
    yield {"networks": {name: _size(asked) for name, asked in networks.items()}}


def _describe_gpu(number: int) -> dict[str, Any]:
    import torch

    # Nothing that opens a context: that takes a second and memory on each GPU.
    device = torch.cuda.get_device_properties(number)
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return {"name": device.name, "total": device.total_memory, "bf16": has_bf16}


def _size(asked: dict[str, Any]) -> dict[str, Any]:
    """Return a network's numbers, and where published weights for it lie or come from."""
    import torch

    from selftrain.models import build_network

    weights = asked.pop("backbone_weights")
    with torch.device("meta"):  # without memory
        network = build_network(**asked, backbone_weights="none")
    numbers = sum(it.numel() for it in (*network.parameters(), *network.buffers()))
    is_name = weights != "none" and not weights.endswith(FILES) and ":/" not in weights
    if not is_name or asked["name"] == "fast_scnn":
        return {"numbers": numbers}
    from torchvision.models import get_model_weights

    published = get_model_weights(asked["backbone"])
    if weights not in published.__members__:
        return {"numbers": numbers, "known": list(published.__members__)}
    url = published[weights].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return {"numbers": numbers, "url": url, "file": str(file), "is_there": file.is_file()}


if __name__ == "__main__":
    for found in probe(json.loads(sys.argv[1])):  # what is known is told, if more takes too long
        print(json.dumps(found), flush=True)
