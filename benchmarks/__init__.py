"""Measurements that anyone can repeat; what they gave stands in docs/benchmarks.md."""
