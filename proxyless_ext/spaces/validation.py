"""From JSON or YAML files to validated models, with errors as one sentence."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ..documents import parse_document
from ..errors import UserError

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of all that is read from JSON or YAML: immutable; unknown keys and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_is_a_number(cls, value: Any) -> Any:
        for name, field in cls.model_fields.items() if isinstance(value, dict) else ():
            if isinstance(found := value.get(name), bool) and _is_number(field.annotation):
                raise ValueError(f"{name} is {str(found).lower()}, where no truth value can be")
        return value


def _is_number(annotation: Any) -> bool:
    """Whether a number can stand in a field, and no truth value."""
    kinds = {getattr(kind, "__origin__", kind) for kind in get_args(annotation) or (annotation,)}
    return bool(kinds & {int, float}) and bool not in kinds


def read_model(model: type[Model], path: str | Path) -> Model:
    """Read a JSON or YAML file as `model`.

    Raises:
        UserError: the file cannot be read, cannot be parsed, or does not fit the model.
    """
    return validate(model, read_mapping(path), str(path))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping at the top of a JSON or YAML file.

    Raises:
        UserError: the file cannot be read or holds no mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}") from error
    value = parse_document(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold keys and values at its top level")
    return value


def validate(model: type[Model], value: dict[str, Any], source: str) -> Model:
    """`value` as a `model`; `source` names where it came from in the error.

    Raises:
        UserError: naming the first key that does not fit, and what is allowed.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(model, error)}") from error
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'; remove it or correct its spelling{_neighbours(model, key)}"
    if first["type"] == "missing":
        return f"the key '{key}' is missing"
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    found = "" if isinstance(value, dict) else f" is {reprlib.repr(value)}"
    place = f"'{key}'{found}: " if key else ""
    return f"{place}{message[0].lower()}{message[1:]}"


def _neighbours(model: type[BaseModel], key: str) -> str:
    """The keys allowed beside an unknown one, where they can be found from the model."""
    fields = model.model_fields
    for part in key.split(".")[:-1]:
        annotation = fields[part].annotation if part in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        fields = annotation.model_fields
    return f" (known: {', '.join(fields)})"
