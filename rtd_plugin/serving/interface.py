"""The page that describes the HTTP interface, from its OpenAPI schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtd_plugin.evaluation.report import render


def describe_interface(schema: Mapping[str, Any], address: str) -> str:
    """Return the page.

    Args:
        schema: in OpenAPI, as FastAPI gives it.
        address: of the service, for the example.
    """
    routes = [
        {
            "method": method.upper(),
            "path": path,
            "summary": route["summary"],
            "fields": _list_fields(schema, route.get("requestBody", {})),
        }
        for path, methods in schema["paths"].items()
        for method, route in methods.items()
    ]
    return render("interface.html", {"routes": routes, "address": address}, "rtd_plugin.serving")


def _list_fields(schema: Mapping[str, Any], body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the fields of a form."""
    fields = []
    for content in body.get("content", {}).values():
        form = schema["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        for name, field in form["properties"].items():
            variant = field.get("anyOf", [field])[0]
            is_file = "contentMediaType" in variant or variant.get("format") == "binary"
            fields.append(
                {
                    "name": name,
                    "type": "file" if is_file else variant["type"],
                    "required": name in form.get("required", ()),
                    "default": field.get("default"),
                    "meaning": field.get("description", ""),
                }
            )
    return fields
