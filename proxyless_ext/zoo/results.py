"""Accuracy and latency as published, to print beside what this machine measures.

Source: the ProxylessNAS paper (arXiv 1812.00332), and the release for the networks in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PublishedResult:
    """What is known of one network on ImageNet at 224 pixels, or on CIFAR-10 at 32.

    Attributes:
        top1, top5: accuracy in percent, on ImageNet's validation or CIFAR-10's test pictures; None
            where it was not published.
        latency_ms: milliseconds by device; on "V100" for a batch of 8 pictures.
    """

    top1: float
    top5: float | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)


RESULTS = {
    "proxyless_gpu": PublishedResult(75.08, 92.54, {"V100": 5.1, "Xeon": 204.9, "Pixel 1": 124}),
    "proxyless_cpu": PublishedResult(75.29, 92.39, {"V100": 7.4, "Xeon": 138.7, "Pixel 1": 116}),
    "proxyless_mobile": PublishedResult(74.59, 92.20, {"V100": 7.2, "Xeon": 164.1, "Pixel 1": 78}),
    "proxyless_mobile_14": PublishedResult(76.7),
    "proxyless_cifar": PublishedResult(97.92),
    "mobilenet_v2": PublishedResult(72.0, None, {"Pixel 1": 75}),
}
