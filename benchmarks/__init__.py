"""Benchmarks and studies, run from the root of the checkout: ``python -m benchmarks.mbconv``."""
