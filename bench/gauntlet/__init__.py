"""The gauntlet: maas_rt against its peers on every model of bench.models.GAUNTLET, `python -m bench.gauntlet`."""
