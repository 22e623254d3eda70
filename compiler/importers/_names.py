"""Which names of a checkpoint are the model's: nests and prefixes are found by the names that the model has, not by a list of theirs.

Training puts weights under keys ({"model": ..., "optimizer": ...}, app.model.x, state_dict_ema) and wrappers put words into names
(module., _orig_mod.). All names are joined with dots, wrappers' words are left out of both sides, and every prefix under which the
model's names are found is a candidate. What fits exactly is taken; two that fit and differ are refused, unless one is an average
(EMA, SWA) of the other, which has to be asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maas_rt._errors import CheckpointError

from ._contents import Contents, Location, Sliced, StoredTensor, leaves
from ._safe_pickle import Inert

__all__ = ["WEIGHT_NESTS", "Entry", "Fit", "Names"]

# Words that wrappers put into names: DDP and DataParallel, torch.compile, FSDP, activation checkpointing, Lightning, fairscale.
_WRAPPERS = frozenset(
    "module _orig_mod _fsdp_wrapped_module _checkpoint_wrapped_module _forward_module _fpw_module _dp_module".split()
)
# Keys under which training scripts keep weights.
WEIGHT_NESTS = frozenset(
    "state_dict model model_state_dict model_state module net network app state weights params backbone generator student ema "
    "model_ema ema_model state_dict_ema ema_state_dict model_state_dict_ema teacher swa_model".split()
)
# Of these, averages of the weights: taken if nothing else fits, or by name.
_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?|shadow|teacher|polyak)([._]|$)|_avg([._]|$)")
# What an optimizer and its like keep, which has names and shapes of weights, and is never taken for them.
_OPTIMIZER = frozenset(
    "optimizer optimizers optim opt optimizer_state optimizer_state_dict optimizer_states optim_state_dict opt_state lr_scheduler "
    "lr_schedulers lr_scheduler_state_dict scheduler schedulers scheduler_state_dict sched exp_avg exp_avg_sq momentum_buffer grad "
    "grads gradients".split()
)
# What else is known not to be weights, by the first word, whatever it nests.
_NOT_WEIGHTS = _OPTIMIZER | frozenset(
    "train_state trainer_state trainer rng rng_state rng_states random_states cuda_rng_state torch_rng_state numpy_rng_state "
    "python_rng_state dataloader sampler scaler grad_scaler amp amp_scaler loss losses criterion loss_fn step steps global_step iter "
    "iteration epoch epochs num_batches metrics metric history best best_acc best_acc1 best_loss best_score best_metric acc acc1 "
    "callbacks loops fit_loop hyper_parameters hparams args config cfg options n_averaged num_updates ema_num_updates decay version "
    "torch_version timestamp date time".split()
)
# And by the last: counters that AveragedModel and thop leave among a module's buffers.
_COUNTERS = frozenset("n_averaged total_ops total_params".split())
# What may hold weights that nobody means: of a network among hyperparameters, of callbacks, and, beside Lightning's average, the others.
_BEHIND = frozenset("hyper_parameters hparams args config cfg options callbacks loops current_model_state".split())
_PROBES = 12
_MOST_PREFIXES = 64


@dataclass(frozen=True)
class Entry:
    """A tensor, or a module's extra state, of the checkpoint."""

    name: str  # as the checkpoint has it, keys joined by dots
    plain: str  # without wrappers' words
    location: Location
    leaf: Any

    def shape(self) -> tuple[int, ...] | None:
        return self.leaf.shape if isinstance(self.leaf, StoredTensor) else None


@dataclass
class Fit:
    """The model's names with what the checkpoint has for each, and what does not fit."""

    prefix: str
    chosen: dict[str, Entry] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    surplus: list[Entry] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    rest: dict[str, Entry] = field(default_factory=dict)  # under the prefix, without a use: a load hook may have one

    def faults(self) -> int:
        return len(self.missing) + len(self.surplus) + len(self.misshapen)


class Names:
    """The entries of a checkpoint, of one key or prefix of it if asked for."""

    def __init__(self, contents: Contents, key: str | None = None, prefix: str | None = None) -> None:
        self._file = contents.name
        self._plain: Callable[[str], str] = _plain
        self._asked = key is not None or prefix is not None
        everything = [
            Entry(name, _plain(name), location, leaf)
            for location, leaf in leaves(contents.tree)
            if isinstance(leaf, (StoredTensor, Sliced, Inert)) or str(location[-1]).endswith("_extra_state")
            for name in [".".join(map(str, location))]
        ]
        self.nests = sorted({_first(entry.name) for entry in everything if "." in entry.name})
        self.entries = everything
        for what, start in (("key", key and key.rstrip(".") + "."), ("prefix", prefix)):
            if start:
                self.entries = list(self._under(what, start))

    def _under(self, what: str, start: str) -> Iterator[Entry]:
        found = [entry for entry in self.entries if entry.name.startswith(start)]
        if not found:
            there = ", ".join(self.nests[:12]) or "names without a dot"
            raise CheckpointError(
                f"the checkpoint {self._file} has nothing under the {what} {start.rstrip('.')!r}: it has {there}"
            )
        for entry in found:
            name = entry.name[len(start) :]
            yield Entry(name, _plain(name), entry.location, entry.leaf)

    def fits(self, shapes: Mapping[str, tuple[int, ...] | None]) -> list[Fit]:
        """How each candidate fits names with their shapes (None for any)."""
        if len({_plain(name) for name in shapes}) < len(
            shapes
        ):  # the model has wrappers' words in names that differ by them alone
            self.entries = [replace(entry, plain=entry.name) for entry in self.entries]
            self._plain = str
        found = [self._fit(shapes, prefix, "") for prefix in self._prefixes(shapes)]
        if not any(fit.faults() == 0 for fit in found):
            # The model wraps what was saved: its own names have a common beginning that the checkpoint's lack.
            for outer in _common_prefixes(shapes):
                inner = {name[len(outer) :]: shape for name, shape in shapes.items()}
                found += [self._fit(shapes, prefix, outer) for prefix in self._prefixes(inner)]
        return found

    def best_first(self, fits: Iterable[Fit]) -> list[Fit]:
        """Those without a fault first, an average behind what it is of; then by how much does not fit."""
        return sorted(fits, key=lambda fit: (fit.faults() > 0, fit.faults() + len(fit.missing), self._rank(fit)))

    def exact(self, fits: Sequence[Fit]) -> list[Fit]:
        """Those without a fault that are as good as the best: more than one is for the caller to compare."""
        best = [fit for fit in fits if fit.faults() == 0]
        return [fit for fit in best if self._rank(fit) == self._rank(best[0])]

    def _rank(self, fit: Fit) -> bool:
        """Whether weights beside these are meant rather."""
        words = set(fit.prefix.split("."))
        return not self._asked and bool(_AVERAGED.search(fit.prefix) or words & _BEHIND)

    def _prefixes(self, shapes: Mapping[str, Any]) -> list[str]:
        """Prefixes under which names of the model are found, those of most names first."""
        wanted = sorted((self._plain(name) for name in shapes), key=lambda name: (-name.count("."), name))
        probes = wanted[:: max(1, len(wanted) // _PROBES)][:_PROBES]
        counts: dict[str, int] = {}
        for probe in probes:
            for entry in self.entries:
                if entry.plain == probe or entry.plain.endswith("." + probe):
                    prefix = entry.plain[: len(entry.plain) - len(probe)]
                    counts[prefix] = counts.get(prefix, 0) + 1
        usable = [p for p in counts if self._asked or not _OPTIMIZER & set(p.split("."))]
        ordered = sorted(usable, key=lambda prefix: (-counts[prefix], prefix.count("."), prefix))[:_MOST_PREFIXES]
        known = sorted({nest + "." for nest in WEIGHT_NESTS} & {_first(e.plain) + "." for e in self.entries})
        return list(dict.fromkeys([*ordered, "", *known]))

    def _fit(self, shapes: Mapping[str, tuple[int, ...] | None], prefix: str, outer: str) -> Fit:
        fit = Fit(prefix)
        by_plain: dict[str, list[str]] = {}
        for name in shapes:
            by_plain.setdefault(self._plain(name), []).append(name)
        outer_plain = self._plain(outer.rstrip("."))
        outer_plain += "." if outer_plain else ""
        rivals: list[Entry] = []
        for entry in self.entries:
            if not entry.plain.startswith(prefix):
                rivals.append(entry)
                continue
            relative = outer_plain + entry.plain[len(prefix) :]
            names = by_plain.get(relative, [])
            use = next((n for n in names if n == outer + entry.name), names[0] if len(names) == 1 else None)
            if use is None or (use in fit.chosen and use != outer + entry.name):
                rivals.append(entry)
                continue
            if use in fit.chosen:
                rivals.append(fit.chosen[use])
            fit.chosen[use] = entry
        nodes = {entry.location[:-1] for entry in fit.chosen.values()}
        known_nest = prefix != "" and set(prefix.rstrip(".").split(".")) <= WEIGHT_NESTS
        for entry in rivals:
            inside = entry.plain.startswith(prefix)
            beside = entry.location[:-1] in nodes and not (known_nest and not inside)
            name = entry.plain[len(prefix) :] if inside else entry.plain
            if is_no_weight(name):
                continue
            if inside:
                known = outer_plain + name in by_plain
                fit.rest.setdefault(entry.name if known else outer_plain + name, entry)
            if beside:
                fit.surplus.append(entry)
        for name, shape in shapes.items():
            chosen = fit.chosen.get(name)
            if chosen is not None and isinstance(chosen.leaf, Sliced) and shape is not None:
                whole = chosen.leaf.whole(shape)
                if isinstance(whole, str):
                    fit.misshapen.append(f"{name} ({whole})")
                    continue
                fit.chosen[name] = replace(chosen, leaf=whole)
            elif chosen is None:
                fit.missing.append(name)
            elif shape is not None and chosen.shape() is not None and chosen.shape() != shape:
                fit.misshapen.append(f"{name} (checkpoint {chosen.shape()}, model {shape})")
        return fit


def _plain(name: str) -> str:
    words = name.split(".")
    kept = [word for word in words if word not in _WRAPPERS]
    return name if len(kept) == len(words) else ".".join(kept)


def _first(name: str) -> str:
    return name.partition(".")[0]


def is_no_weight(name: str) -> bool:
    return _first(name) in _NOT_WEIGHTS or name.rpartition(".")[2] in _COUNTERS


def _common_prefixes(names: Iterable[str]) -> list[str]:
    """ "a.", "a.b." where every name begins with both, the shortest first."""
    split = [name.split(".")[:-1] for name in names]
    common: list[str] = []
    for words in zip(*split):
        if len(set(words)) > 1:
            break
        common.append((common[-1] if common else "") + words[0] + ".")
    return common
