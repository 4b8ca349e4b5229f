"""The OpenVINO target: the same graphs, run by OpenVINO, which also computes bf16 on CPUs that have it."""
