"""Before any of the tests imports torch: its threads are not to spin on a busy machine."""

from upscaled_models.device.threads import settle_waiting

settle_waiting()
