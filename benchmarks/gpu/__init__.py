"""What has to be measured on a GPU, by one command: ``python -m benchmarks.gpu``."""
