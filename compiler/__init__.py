"""maas_rt.compiler: turns a trained model into one file that the runtime loads."""
