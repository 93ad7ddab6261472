"""The sections of :mod:`benchmarks.run`, a module each."""
