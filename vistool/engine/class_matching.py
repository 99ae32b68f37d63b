"""What the classes of a model stand for among the categories of a data set."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from vistool.engine.run_record import MatchedClass
from vistool.errors import DataError
from vistool.formats.results import Category
from vistool.models.weights import WeightsHeader


def matched_classes(
    header: WeightsHeader, categories: Sequence[Category], *, class_agnostic: bool = False
) -> tuple[MatchedClass, ...]:
    """Which categories of a data set every class of a model stands for, by their names.

    Categories of one name are one class, as in training. Where no category has the very name of a
    class, upper case, underscores and hyphens make no difference. A model that was trained on
    merged classes says in its header what each stands for. Where objects have no category, every
    class stands for them.

    Raises: DataError if no class has any, or two claim the same.
    """
    config = header.config
    members = _trained_classes(header)
    named = {name: (name, *members.get(name, ())) for name in config.class_names}
    ids_of = _ids_of_names({name for names in named.values() for name in names}, categories)
    matched = []
    for name, number in zip(config.class_names, config.ids_of_classes(), strict=True):
        found = {id_ for n in named[name] for id_ in ids_of[n]}
        if class_agnostic:
            found = {category.id for category in categories}
        matched.append(MatchedClass(name, number, tuple(sorted(found))))
    if not any(m.category_ids for m in matched):
        raise DataError(
            f"none of the model's classes is a category of the data set: "
            f"{', '.join(config.class_names)}",
            hint=f"categories of the set: {', '.join(c.name for c in categories[:20])}",
        )
    claimed: dict[int, str] = {}
    for match in [] if class_agnostic else matched:
        for category in match.category_ids:
            if category in claimed:
                raise DataError(
                    f"the model's classes {claimed[category]!r} and {match.name!r} both stand for "
                    f"category {category} of the data set"
                )
            claimed[category] = match.name
    return tuple(matched)


def _ids_of_names(
    names: Collection[str], categories: Sequence[Category]
) -> Mapping[str, Collection[int]]:
    """The categories that every name means: those so called, or else those written otherwise."""
    exact: dict[str, list[int]] = defaultdict(list)
    otherwise: dict[str, list[int]] = defaultdict(list)
    for category in categories:
        exact[category.name].append(category.id)
        if category.name not in names:
            otherwise[_plain(category.name)].append(category.id)
    return {name: exact[name] or otherwise[_plain(name)] for name in names}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _trained_classes(header: WeightsHeader) -> dict[str, list[str]]:
    """The header's table of what was trained as which class, if it has one."""
    with contextlib.suppress(msgspec.MsgspecError):
        content = msgspec.json.decode(
            header.metadata.get("training", ""), type=dict[str, msgspec.Raw]
        )
        return msgspec.json.decode(content.get("classes", b"{}"), type=dict[str, list[str]])
    return {}
