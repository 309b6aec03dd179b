"""The OpenAPI 3.1 description of the REST API."""

from __future__ import annotations

from typing import Any

import msgspec

from ..._version import __version__
from ..rights import ACTIONS

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
PEER_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[ -~]{1,128}$"}
CHANNEL: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 256,
    "pattern": "^[^\\u0000-\\u001F\\u007F-\\u009F]*$",
    "description": "1 to 256 bytes of UTF-8 without control characters, no reserved prefix",
}
OBJECT: Schema = {"type": "object"}
BOUND: Schema = {"type": ["integer", "null"], "minimum": 1}
TIME: Schema = {"type": ["integer", "null"], "description": "Unix seconds"}


def _object(properties: Schema, *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


ERROR = _object({"error": STRING, "message": STRING})

TOKEN_BODY = _object(
    {
        "peerId": PEER_ID,
        "channels": {
            "type": "array",
            "items": CHANNEL,
            "maxItems": 100,
            "description": "Names or patterns within the key's patterns, which are the default",
        },
        "permissions": {"type": "array", "items": {"type": "string", "enum": sorted(ACTIONS)}, "maxItems": 16},
        "expiresInSec": {"type": "integer", "minimum": 1, "maximum": 86_400, "default": 3_600},
        "metadata": {**OBJECT, "description": "Sent to the peer only, in its welcome; at most 8 KB as JSON"},
        "peerMetadata": {**OBJECT, "description": "Sent to all peers that see the peer; at most 4 KB as JSON"},
    },
    "channels",
    "permissions",
    "expiresInSec",
    "metadata",
    "peerMetadata",
)
PUBLISH_BODY = _object(
    {
        "data": {"description": "Any JSON value"},
        "from": {**PEER_ID, "default": "system", "description": "Not the id of a connected peer"},
        "peerMetadata": {**OBJECT, "description": "At most 4 KB as JSON"},
    },
    "from",
    "peerMetadata",
)
ROSTER = _object(
    {
        "channel": STRING,
        "peers": {"type": "array", "items": _object({"peerId": PEER_ID, "metadata": OBJECT}, "metadata")},
    }
)
PLAN = _object(
    {
        "name": {"type": ["string", "null"]},
        "maxConcurrentConnections": BOUND,
        "maxMessagesPerPeriod": BOUND,
        "overagesAllowed": {"type": "boolean"},
        "overagesEnabled": {"type": "boolean"},
    }
)
USAGE = _object(
    {
        "appId": STRING,
        "periodStartUnix": TIME,
        "periodEndUnix": TIME,
        "concurrentNow": COUNT,
        "peakConcurrent": COUNT,
        "messagesUsed": COUNT,
        "overageMessages": COUNT,
        "overageConnections": COUNT,
        "plan": PLAN,
    }
)

REASONS = {
    400: "Bad body, field or id, or a reserved channel",
    401: "No secret key, or not a valid one",
    403: "Out of the key's scope",
    404: "Unknown route",
    408: "The body did not arrive in time",
    413: "Body too large",
    503: "Backend trouble",
}


def _operation(name: str, summary: str, answer: Schema, *refusals: int, **parts: Any) -> Schema:
    responses: Schema = {"200": {"description": "Done", "content": {"application/json": {"schema": answer}}}}
    for status in sorted({401, 503, *refusals}):
        responses[str(status)] = {
            "description": REASONS[status],
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    responses["429"] = {"$ref": "#/components/responses/TooMany"}
    return {"operationId": name, "summary": summary, "responses": responses, **parts}


def _body(schema: Schema) -> Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _path_id(schema: Schema) -> list[Schema]:
    return [{"name": "id", "in": "path", "required": True, "schema": schema, "description": "Percent-encoded"}]


PATHS: Schema = {
    "/tokens": {
        "post": _operation(
            "mintToken",
            "Sign a token",
            _object({"token": STRING, "expiresAt": COUNT}),
            400,
            403,
            408,
            413,
            requestBody=_body(TOKEN_BODY),
        )
    },
    "/channels/{id}/peers": {
        "get": _operation(
            "listPeers", "List the peers in a channel", ROSTER, 400, 403, 404, parameters=_path_id(CHANNEL)
        )
    },
    "/channels/{id}/publish": {
        "post": _operation(
            "publish",
            "Publish to a channel",
            _object({"channel": STRING, "delivered": COUNT}),
            400,
            403,
            404,
            408,
            413,
            parameters=_path_id(CHANNEL),
            requestBody=_body(PUBLISH_BODY),
        )
    },
    "/peers/{id}": {
        "delete": _operation(
            "closePeer",
            "End every connection of a peer",
            _object({"peerId": PEER_ID, "closed": COUNT}),
            400,
            404,
            parameters=_path_id(PEER_ID),
        )
    },
    "/usage": {"get": _operation("getUsage", "Get the usage of the app", USAGE)},
}

DESCRIPTION: Schema = {
    "openapi": "3.1.0",
    "info": {"title": "Realtime signalling: REST API", "version": __version__},
    "servers": [{"url": "/v1"}],
    "security": [{"secretKey": []}],
    "paths": PATHS,
    "components": {
        "securitySchemes": {
            "secretKey": {"type": "http", "scheme": "bearer", "description": "`<sk_id>:<sk_secret>`"},
        },
        "schemas": {"Error": ERROR},
        "responses": {
            "TooMany": {
                "description": "The rate limit of the address or the key, or the quota of the period, is exceeded",
                "headers": {"Retry-After": {"schema": COUNT, "description": "Seconds"}},
                "content": {"application/json": {"schema": _object({"error": STRING, "message": STRING}, "error")}},
            }
        },
    },
}

DOCUMENT = msgspec.json.encode(DESCRIPTION)
