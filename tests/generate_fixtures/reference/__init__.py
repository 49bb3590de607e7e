"""PyTorch's side of the parity cases: for each kind, what the reference computes from a case's inputs."""
