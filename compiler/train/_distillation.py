"""A network learns from a larger one that is trained: its scores, its hidden states, its attention.

G. Hinton, O. Vinyals and J. Dean, "Distilling the Knowledge in a Neural Network" (2015): the cross entropy between both networks' softmax
at a temperature T, times T². X. Jiao et al., "TinyBERT" (2020): the mean squared error between hidden states, the student's through a
linear projection where they have other widths, and between attention maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maas_rt._errors import InvalidArgumentError

from ._callbacks import Callback, Run

__all__ = ["Distillation"]

Teach = Callable[[nn.Module, Any], Any]


class Distillation(Callback):
    """A callback of `train`: the loss becomes (1 - alpha) · loss + alpha · T² · KL(teacher / T, student / T) + the others.

    Args:
        teacher: the trained network, called on each batch in eval mode; it is not changed.
        temperature: T.
        alpha: 0 to 1.
        hidden: pairs of layers whose results are to be alike, {student's name: teacher's}; of a result that is a tuple, its first item.
            Where the last axes differ, a linear projection of the student's is trained along.
        attention: pairs of layers that return (result, attention map); nn.MultiheadAttention is made to, wherever it is called from.
        hidden_weight, attention_weight: of these in the loss.
        teach: (teacher, batch) -> its scores, for batches that are not (inputs..., target).
    """

    name = "distillation"

    def __init__(
        self, teacher: nn.Module, *, temperature: float = 4.0, alpha: float = 0.5, hidden: Mapping[str, str] | None = None,
        attention: Mapping[str, str] | None = None, hidden_weight: float = 1.0, attention_weight: float = 1.0, teach: Teach | None = None,
    ) -> None:  # fmt: skip
        if not temperature > 0 or not 0 <= alpha <= 1:
            raise InvalidArgumentError(
                f"Distillation: temperature is {temperature!r} and alpha {alpha!r}, expected a number above 0, and one of 0 to 1"
            )
        self._teacher, self._temperature, self._alpha = teacher.eval(), temperature, alpha
        self._hidden, self._attention = dict(hidden or {}), dict(attention or {})
        self._weights, self._teach = (hidden_weight, attention_weight), teach or _scores
        self._seen: dict[tuple[str, str], Any] = {}  # (of whom, layer) -> its last result
        self._projections = nn.ModuleDict()
        self._last: dict[str, float] = {}

    def begin(self, run: Run) -> None:
        """Widths are found by the first batch that either sees, so that projections are made here by the layers' own."""
        if run.workers.stages is not None and (self._hidden or self._attention):
            raise InvalidArgumentError(
                "Distillation: hidden and attention read layers while the module runs, which a pipeline does not show: leave them out, or train with 'ddp' or 'fsdp'"
            )
        self._teacher.to(run.workers.device)
        for parameter in self._teacher.parameters():
            parameter.requires_grad_(False)
        for student, teacher in {**self._hidden, **self._attention}.items():
            self._watch("student", run.module, student)
            self._watch("teacher", self._teacher, teacher)
        generator_state = torch.get_rng_state()
        torch.manual_seed(0)  # alike in every process
        for student, teacher in self._hidden.items():
            widths = _width(run.module.get_submodule(student)), _width(self._teacher.get_submodule(teacher))
            if None not in widths and widths[0] != widths[1]:
                linear = nn.Linear(widths[0] or 0, widths[1] or 0, bias=False).to(run.workers.device)
                self._projections[student.replace(".", "/")] = linear
        torch.set_rng_state(generator_state)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self._projections.named_parameters())

    def loss(self, run: Run, batch: Any, output: Any, target: Any, loss: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self._teach(self._teacher, batch)
        seen = dict(self._seen)
        self._seen.clear()
        if not isinstance(output, Tensor) or not isinstance(taught, Tensor) or output.shape != taught.shape:
            raise InvalidArgumentError(
                f"Distillation: the student's scores are {_shape(output)} and the teacher's {_shape(taught)}, expected tensors of one shape"
            )
        soft = soft_loss(output, taught, self._temperature)
        total = (1 - self._alpha) * loss + self._alpha * soft
        self._last = {"task_loss": loss.item(), "soft_loss": soft.item()}
        for number, (kind, pairs) in enumerate((("hidden", self._hidden), ("attention", self._attention))):
            for one, other in pairs.items():
                part = self._difference(kind, one, seen.get(("student", one)), seen.get(("teacher", other)))
                self._last[f"{kind}_loss"] = self._last.get(f"{kind}_loss", 0.0) + part.item()
                total = total + self._weights[number] * part
        return total

    def told(self, run: Run) -> Mapping[str, Any]:
        return self._last

    def _difference(self, kind: str, layer: str, student: Any, teacher: Any) -> Tensor:
        if student is None or teacher is None:
            raise InvalidArgumentError(
                f"Distillation: the {'student does not call ' + layer if student is None else 'teacher does not call its layer of ' + layer}, or calls what it has inside in its place: take another layer"
            )
        one, other = (_item(value, 0 if kind == "hidden" else 1) for value in (student, teacher))
        if one is None or other is None:
            raise InvalidArgumentError(
                f"Distillation: {layer} and its teacher's layer are to give {'a tensor' if kind == 'hidden' else '(result, attention map), as nn.MultiheadAttention does'}"
            )
        key = layer.replace(".", "/")
        if kind == "hidden" and key in self._projections:
            one = self._projections[key](one)
        if one.shape != other.shape:
            raise InvalidArgumentError(
                f"Distillation: {layer} gives {list(one.shape)} and its teacher's layer {list(other.shape)}, expected the same but for a last axis that a linear layer or a norm ends with"
            )
        return nn.functional.mse_loss(one, other)

    def _watch(self, whose: str, module: nn.Module, name: str) -> None:
        try:
            layer = module.get_submodule(name)
        except AttributeError:
            raise InvalidArgumentError(
                f"Distillation: the {whose} has no layer {name}: take one of its named_modules"
            ) from None

        def seen(_: nn.Module, inputs: Any, result: Any) -> None:
            self._seen[whose, name] = result

        layer.register_forward_hook(seen)
        if isinstance(layer, nn.MultiheadAttention):
            layer.register_forward_pre_hook(_with_map, with_kwargs=True)


def _with_map(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """nn.TransformerEncoderLayer, among others, asks for none."""
    place = 4  # of need_weights, behind query, key, value and key_padding_mask
    if len(args) > place:
        return (*args[:place], True, *args[place + 1 :]), kwargs
    return args, {**kwargs, "need_weights": True}


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T), softmax(student / T)) over axis 1, the mean over the rest."""
    one = torch.log_softmax(student.float() / temperature, 1)
    other = torch.log_softmax(teacher.float() / temperature, 1)
    divergence = nn.functional.kl_div(one, other, reduction="none", log_target=True).sum(1)
    return divergence.mean() * temperature**2


def _scores(teacher: nn.Module, batch: Any) -> Any:
    *inputs, _ = batch
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        return teacher(**inputs[0])
    return teacher(*inputs)


def _width(layer: nn.Module) -> int | None:
    """Of the last axis of what a layer gives, by the last of its parts that says so."""
    found: int | None = None
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            found = part.out_features
        elif isinstance(part, nn.LayerNorm):
            found = part.normalized_shape[-1]
        elif isinstance(part, nn.Embedding):
            found = part.embedding_dim
        elif isinstance(part, nn.MultiheadAttention):
            found = part.embed_dim
    return found


def _item(value: Any, number: int) -> Tensor | None:
    if isinstance(value, tuple | list):
        value = value[number] if len(value) > number else None
    elif number:
        value = None
    return value if isinstance(value, Tensor) else None


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__
