"""A Postman collection (format 2.1.0) made from the OpenAPI document: a folder per tag, a request
per route, with `{{url}}` and `{{key}}` as the collection's variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_FORMAT = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"
_METHODS = ("get", "post", "put", "patch", "delete")


def collection(openapi: Json) -> Json:
    """The collection. Optional parts of a request are included, but disabled."""
    folders: dict[str, list[Json]] = {}
    for path, routes in openapi["paths"].items():
        for method in _METHODS:
            if method in routes:
                tag = routes[method].get("tags", ["other"])[0]
                folders.setdefault(tag, []).append(_request(path, method, routes[method]))
    info = openapi["info"]
    return {
        "info": {
            "name": info["title"],
            "version": info["version"],
            "description": info.get("description", ""),
            "schema": _FORMAT,
        },
        "item": [{"name": tag, "item": requests} for tag, requests in folders.items()],
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{key}}"}]},
        "variable": [
            {"key": "url", "value": "http://127.0.0.1:8080"},
            {"key": "key", "value": "", "description": "One of the server's keys, if it has any."},
        ],
    }


def _request(path: str, method: str, operation: Json) -> Json:
    parts = [f":{part[1:-1]}" if part.startswith("{") else part for part in path.split("/")[1:]]
    parameters = operation.get("parameters", [])
    url: Json = {
        "raw": "{{url}}/" + "/".join(parts),
        "host": ["{{url}}"],
        "path": parts,
    }
    if query := list(_pairs(parameters, "query")):
        url["query"] = query
    if variables := list(_pairs(parameters, "path")):
        url["variable"] = [{**one, "disabled": False} for one in variables]
    request: Json = {
        "method": method.upper(),
        "header": list(_pairs(parameters, "header")),
        "url": url,
        "description": operation.get("description", ""),
    }
    if content := operation.get("requestBody", {}).get("content"):
        request["body"] = _body(content)
    return {"name": f"{method.upper()} {path}", "request": request}


def _pairs(parameters: list[Json], place: str) -> Iterator[Json]:
    for parameter in parameters:
        if parameter["in"] == place:
            yield {
                "key": parameter["name"],
                "value": "",
                "description": parameter.get("description", ""),
                "disabled": not parameter.get("required", False),
            }


def _body(content: Json) -> Json:
    if "multipart/form-data" not in content:
        return {"mode": "raw", "raw": "{}", "options": {"raw": {"language": "json"}}}
    fields = []
    for name, schema in content["multipart/form-data"]["schema"].get("properties", {}).items():
        file = schema.get("format") == "binary" or schema.get("type") == "array"
        field: Json = {"key": name, "type": "file" if file else "text"}
        field |= {"src": []} if file else {"value": _text(schema.get("default")), "disabled": True}
        if description := schema.get("description"):
            field["description"] = description
        fields.append(field)
    return {"mode": "formdata", "formdata": fields}


def _text(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
