"""The service beside other model servers: `python -m bench.service`. README.md says how it is measured."""
