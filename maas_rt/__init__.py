"""maas_rt: runs compiled models (model.mrt). Imports numpy and its own native library, nothing else."""
