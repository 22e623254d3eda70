"""Runs an artifact beside the framework that its model came from; what differs is refused, with the operator that began it.

Rules. The error of a float output is its worst element's against the output's scale: max |got - want| / max |want|, within the
tolerance of its element type (VerifyOptions). NaNs must stand in the same places, infinities must be equal, integers and bools must be
equal. An output that moves by more than that in the source itself, when its float inputs move by a few roundings (a sigmoid whose
largest result is 1e-6, a network that rounds to 8 bits between its layers), may differ by as much as _STEADY such movements: no
implementation can do better; the manifest lists it. So may a float32 output by one rounding of 1, for a sigmoid or softmax is no more
exact than that in most frameworks. Of a model that is quantized, which swallows such movements of its inputs whole and now and then
rounds a tie the other way, the scales (or what is quantized) are moved as well, by _TIES roundings; numbers of 8 bits may be off by one step, as few of
them as there. Since one tie may move such an output by a hundredth, there must be inputs, drawn small so that no tie is near, on which it
agrees by its tolerance: where the source stands still under _NEAR roundings and the two differ _MISSES times, the model is refused. If there
are none, or the sizes are fixed, it is compiled once more, cut at its quantized tensors, and each of these compared by itself (_between.py): an element may be off by as many
steps as it moves there. An output that is constant or NaN throughout, for every input that was tried, is
no evidence: the manifest lists it too. A model that draws random numbers is run with one seed, and its source is given the same
numbers, computed apart from the kernels (ir/_philox.py). Either side has VerifyOptions.seconds for a run: a loop whose end the data decides may have
none on inputs that were drawn.
"""

from ._compare import compare, run_compiled, scales_of
from ._depth import half_tolerances
from ._differences import differences
from ._emulated import verify_emulated
from ._inputs import sample_inputs
from ._reference import Reference
from ._report import Difference, Report
from ._verify import compare_with_source, verify

__all__ = [
    "Difference",
    "Reference",
    "Report",
    "compare",
    "compare_with_source",
    "differences",
    "half_tolerances",
    "run_compiled",
    "sample_inputs",
    "scales_of",
    "verify",
    "verify_emulated",
]
