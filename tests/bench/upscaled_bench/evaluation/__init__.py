"""How good models are, on pictures that no training of ours has seen: `upscaled bench models`."""
