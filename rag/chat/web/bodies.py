"""What a request says, checked: a field that is wrong is named."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

M = TypeVar("M", bound=BaseModel)


class Body(BaseModel):
    """Base of what requests say: nothing unknown, and no value is bent into another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        HTTPException: 400, it is none.
    """
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError) as err:
        raise HTTPException(400, "the body is not JSON") from err
    if not isinstance(content, dict):
        raise HTTPException(400, "the body must be one JSON object")
    return content


async def read(request: Request, kind: type[M]) -> M:
    """The body as `kind`.

    Raises:
        HTTPException: 400, it is no JSON object; 422, a field is wrong.
    """
    return checked(kind, await read_json(request))


def checked(kind: type[M], content: Mapping[str, Any]) -> M:
    """`content` as `kind`.

    Raises:
        HTTPException: 422, with every field that is wrong.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as err:
        raise HTTPException(422, explain(err, kind)) from err


def explain(err: ValidationError, kind: type[BaseModel]) -> str:
    """Every wrong field by name, an unknown one with the nearest that is known."""
    parts = []
    for item in err.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), _names(kind), n=1, cutoff=0.5)
            guess = f", did you mean '{near[0]}'?" if near else ""
            parts.append(f"unknown field '{name[:80]}'{guess}")
        else:
            parts.append(f"'{name[:80]}': {item['msg']}")
    return "; ".join(parts)


def _names(kind: type[BaseModel]) -> list[str]:
    """Names of all fields, those of inner models too."""
    found: list[str] = []
    for name, field in kind.model_fields.items():
        found.append(field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _names(inner)
    return found
