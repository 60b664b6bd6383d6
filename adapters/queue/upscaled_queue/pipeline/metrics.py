"""Counts of the pictures that were filed by this process, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter, Histogram, Metric

from upscaled_queue.pipeline.process import PipelineResult

# The score 1 is a whole 4K screen; the default threshold is 0.5.
_SCORE_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 4.0)


class PipelineMetrics:
    """Pictures by folder, and their scores, since the start of the process."""

    def __init__(self) -> None:
        self._pictures = Counter(
            "upscaled_pipeline_pictures", "Pictures filed, by folder.", ["folder"], registry=None
        )
        self._scores = Histogram(
            "upscaled_pipeline_score",
            "Scores of the pictures, as they came.",
            buckets=_SCORE_BUCKETS,
            registry=None,
        )

    def count(self, result: PipelineResult) -> None:
        """Count a result that is new."""
        self._pictures.labels(result.folder).inc()
        if result.quality_score is not None:
            self._scores.observe(result.quality_score)

    def collect(self) -> Iterator[Metric]:
        """The metrics, now."""
        yield from self._pictures.collect()
        yield from self._scores.collect()
