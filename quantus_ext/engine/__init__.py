"""The one engine under every metric: forward passes, keyed draws, perturbations, streamed sums."""
