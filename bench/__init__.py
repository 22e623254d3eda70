"""Benchmarks of maas_rt against its peers: see README.md for the protocol."""
