"""What compression reaches, against goals and against peers: `python -m bench.compression`. bench/README.md says how."""
