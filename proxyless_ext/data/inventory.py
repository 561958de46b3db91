"""Which pictures there are, in so few words that a run can remember them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from ..spaces import StrictModel
from .parts import Part

_SHOWN = 3
"""Changes that are spelled out."""

_LISTED_CLASSES = 12


class ClassInventory(StrictModel):
    """The pictures of one class: how many, and a digest of what tells them apart."""

    count: int
    digest: str


class Inventory(StrictModel):
    """The pictures of a source, wherever it lies and in whatever order they are found.

    Attributes:
        classes: names of the classes, in the order of the labels.
        parts: for each part of the source (``train``, ``val``, ``test``), its classes in order.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[ClassInventory, ...]]

    @classmethod
    def of(cls, classes: Sequence[str], parts: Mapping[str, Part]) -> Inventory:
        """The inventory of the parts of a source."""
        return cls(
            classes=tuple(classes),
            parts={name: _count(part, len(classes)) for name, part in parts.items()},
        )

    def changes_since(self, before: Inventory) -> str:
        """What is different from `before`, as the end of a sentence; empty if nothing is."""
        changes = list(self._changes(before))
        more = f" and {len(changes) - _SHOWN} more changes" if len(changes) > _SHOWN else ""
        return ", ".join(changes[:_SHOWN]) + more

    def _changes(self, before: Inventory) -> Iterator[str]:
        for name in self.classes:
            if name not in before.classes:
                yield f"class '{name}' is new"
        for name in before.classes:
            if name not in self.classes:
                yield f"class '{name}' is gone"
        if set(self.classes) == set(before.classes) and self.classes != before.classes:
            yield "the classes have another order"
        for part in (*before.parts, *(self.parts.keys() - before.parts.keys())):
            if part not in self.parts or part not in before.parts:
                yield f"the part {part} is {'new' if part in self.parts else 'gone'}"
                continue
            now = dict(zip(self.classes, self.parts[part], strict=True))
            then = dict(zip(before.classes, before.parts[part], strict=True))
            for name in now.keys() & then.keys():
                if now[name].count != then[name].count:
                    yield (
                        f"class '{name}' of {part} has {now[name].count} pictures instead of "
                        f"{then[name].count}"
                    )
                elif now[name] != then[name]:
                    yield f"pictures of class '{name}' of {part} were renamed or replaced"

    def describe(self) -> Iterator[str]:
        """Lines about classes and counts, for a person to see that they are those meant."""
        for part, rows in self.parts.items():
            counts = [row.count for row in rows]
            if len(rows) <= _LISTED_CLASSES:
                pairs = zip(self.classes, counts, strict=True)
                listed = ", ".join(f"{name} {count}" for name, count in pairs)
            else:
                listed = (
                    f"{', '.join(self.classes[:_LISTED_CLASSES])} and "
                    f"{len(rows) - _LISTED_CLASSES} more, {min(counts)} to {max(counts)} pictures "
                    "each"
                )
            yield f"{part}: {sum(counts)} pictures of {len(rows)} classes: {listed}"


def _count(part: Part, classes: int) -> tuple[ClassInventory, ...]:
    part = part.select(part.numbers.argsort())  # Keys that lie side by side are read faster.
    keys: list[list[bytes]] = [[] for _ in range(classes)]
    for key, label in zip(part.keys(), part.labels.tolist(), strict=True):
        keys[label].append(key)
    return tuple(ClassInventory(count=len(each), digest=_digest(each)) for each in keys)


def _digest(keys: list[bytes]) -> str:
    """Of a set of keys, each with its length, so that no two sets give the same bytes."""
    told = b"".join([len(key).to_bytes(4, "little") + key for key in sorted(keys)])
    return hashlib.blake2b(told, digest_size=8).hexdigest()
