"""Keep the versions of models in a repository, the folder that `maas-rt serve` takes.

  maas-rt repo add models/ digits digits.mrt --label canary     copied as the next version
  maas-rt repo list models/
  maas-rt repo label models/ digits production 3
  maas-rt repo rollback models/ digits                          production, to where it was before
  maas-rt repo remove models/ digits 1
  maas-rt repo gc models/ --keep 3                              all but those that are served

Servers may read the folder meanwhile: one with --watch takes the changes, labels among them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import InvalidArgumentError
from ._arrays import at_least_one, pluralised, sized
from ._opening import KEY_HELP

if TYPE_CHECKING:
    from ..service._store import Store, Version
    from ..service._versions import Labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        found = actions.add_parser(name, help=text)
        found.add_argument("directory", metavar="DIRECTORY", type=Path, help="the repository")
        found.add_argument("--json", action="store_true", help="print the outcome as JSON")
        return found

    add = action("add", "copy a model.mrt into it, as a version")
    add.add_argument("name", metavar="NAME", help="of the model")
    add.add_argument("file", metavar="MODEL.mrt", type=Path)
    add.add_argument("--version", type=at_least_one("version"), metavar="N", help="default: the next one")
    add.add_argument("--label", action="append", default=[], metavar="LABEL", help="put on it; may be repeated")
    add.add_argument("--note", default="", metavar="TEXT", help="kept beside it, and listed")
    add.add_argument(
        "--force", action="store_true", help="even if its inputs and outputs are not those of the version in production"
    )
    add.add_argument("--key", action="append", metavar="KEY", help=KEY_HELP)
    listing = action("list", "show the versions, their labels and where they come from")
    listing.add_argument("name", metavar="NAME", nargs="?", help="of one model alone")
    listing.add_argument("--check", action="store_true", help="read the files, and tell those that have changed")
    listing.add_argument("--key", action="append", metavar="KEY", help=KEY_HELP)
    label = action("label", "put a label on a version, or take it away")
    label.add_argument("name", metavar="NAME")
    label.add_argument("label", metavar="LABEL", help="as production, which is what requests without a version get")
    label.add_argument("version", metavar="VERSION", nargs="?", type=at_least_one("version"))
    label.add_argument("--remove", action="store_true", help="take it away")
    rollback = action("rollback", "put a label back on the version that it was on before")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("label", metavar="LABEL", nargs="?", default="production", help="default: production")
    remove = action("remove", "remove versions that have no label")
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("versions", metavar="VERSION", nargs="+", type=at_least_one("version"))
    gc = action("gc", "remove the versions that neither config.toml's policy nor a label wants")
    gc.add_argument("name", metavar="NAME", nargs="?", help="of one model alone")
    gc.add_argument(
        "--keep", type=at_least_one("number of versions"), metavar="N", help="the latest N, in the policy's place"
    )
    for each in (remove, gc):
        each.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def execute(args: argparse.Namespace) -> int:
    from ..service._store import Store

    actions = {
        "add": _add,
        "list": _list,
        "label": _label,
        "rollback": _rollback,
        "remove": _remove,
        "gc": _gc,
    }
    return actions[args.action](Store(args.directory), args)


def _add(store: Store, args: argparse.Namespace) -> int:
    added = store.add(
        args.name,
        args.file,
        version=args.version,
        labels=args.label,
        force=args.force,
        key=args.key,
        note=args.note,
    )
    labels = f", labelled {', '.join(added.labels)}" if added.labels else ""
    _print(args, _facts(added), f"added {added.name}, version {added.version}{labels}: {added.path}")
    return 0


def _list(store: Store, args: argparse.Namespace) -> int:
    found = store.versions(args.name, key=args.key, check=args.check)
    _print(args, [_facts(each) for each in found], _table(found) if found else "no versions")
    return 1 if args.check and any(each.problem for each in found) else 0


def _label(store: Store, args: argparse.Namespace) -> int:
    if args.remove != (args.version is None):
        raise InvalidArgumentError("repo label takes a version to put the label on, or --remove")
    labels = (
        store.remove_label(args.name, args.label)
        if args.remove
        else store.set_label(args.name, args.label, args.version)
    )
    _print_labels(args, labels)
    return 0


def _rollback(store: Store, args: argparse.Namespace) -> int:
    _print_labels(args, store.rollback(args.name, args.label))
    return 0


def _print_labels(args: argparse.Namespace, labels: Labels) -> None:
    at = labels.current.get(args.label)
    where = "is gone" if at is None else f"is on version {at}"
    _print(args, dict(sorted(labels.current.items())), f"{args.label} of {args.name} {where}")


def _remove(store: Store, args: argparse.Namespace) -> int:
    _print_gone(args, store.remove(args.name, args.versions, args.dry_run))
    return 0


def _gc(store: Store, args: argparse.Namespace) -> int:
    _print_gone(args, store.gc(args.name, keep=args.keep, dry_run=args.dry_run))
    return 0


def _print_gone(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    verb = "would remove" if args.dry_run else "removed"
    lines = [f"{verb} {path}" for path in paths]
    _print(
        args,
        {"removed": [str(path) for path in paths], "dry_run": args.dry_run},
        "\n".join(lines) or "nothing to remove",
    )


def _print(args: argparse.Namespace, document: Any, text: str) -> None:
    print(json.dumps(document, indent=2) if args.json else text)


def _facts(version: Version) -> dict[str, Any]:
    from ..service._keys import show_time

    added = None if version.added is None else show_time(version.added)
    return {**asdict(version), "path": str(version.path), "labels": list(version.labels), "added": added}


def _table(versions: Sequence[Version]) -> str:
    from ..service._keys import show_time

    rows = [("model", "version", "labels", "size", "sha256", "verified", "from", "added")]
    told = []
    for each in versions:
        rows.append(
            (
                each.name,
                str(each.version),
                ", ".join(each.labels) or ("" if each.is_served else "not served"),
                sized(each.bytes),
                each.sha256[:12],
                _verified(each.manifest),
                _origin(each),
                "" if each.added is None else show_time(each.added),
            )
        )
        told += [f"{each.name} {each.version}: {text}" for text in (each.note, each.problem) if text]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    served = sum(each.is_served for each in versions)
    return "\n".join([*lines, *told, f"{pluralised(len(versions), 'version')}, {served} of them served"])


def _verified(manifest: dict[str, Any] | None) -> str:
    """How well it computes what it should: what was measured, else its error against what it was compiled from."""
    if manifest is None:
        return "unknown"
    metrics = manifest.get("metrics") or {}
    if metrics:
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in sorted(metrics.items())
        )
    verified = manifest.get("verified") or {}
    error = verified.get("max_relative_error")
    return f"{verified.get('status', 'unknown')}{'' if error is None else f', error {error:.2g}'}"


def _origin(version: Version) -> str:
    """What it was compiled from, and the name of the file that was added."""
    source = (version.manifest or {}).get("source") or {}
    framework = " ".join(str(source[field]) for field in ("framework", "framework_version") if source.get(field))
    return ", ".join(each for each in (framework, version.source) if each)
