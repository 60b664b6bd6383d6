"""Write the mean of the weights of several stages: it is often better on other pictures than each.

python models/training/mean.py before.safetensors after.safetensors --out compact-x2.safetensors

Source: Wortsman et al., "Robust fine-tuning of zero-shot models", 2022.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

# Run as a script, this file's own folder is on the path; the package is that folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.network import load_network, save_network


def main(argv: list[str] | None = None) -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="mean.py", description="The mean of several weights.")
    parser.add_argument("weights", type=Path, nargs="+", help="files of networks of one size")
    parser.add_argument("--out", type=Path, required=True, help="weights to write (.safetensors)")
    arguments = parser.parse_args(argv)
    first, *others = (load_network(path) for path in arguments.weights)
    with torch.no_grad():
        for name, value in first.state_dict().items():
            same = [value, *(network.state_dict()[name] for network in others)]
            value.copy_(torch.stack(same).mean(0))
    save_network(first, arguments.out)


if __name__ == "__main__":
    main()
