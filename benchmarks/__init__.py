"""Load and micro benchmarks, always beside a peer: `python -m benchmarks.run` and `python -m benchmarks.micro`."""
