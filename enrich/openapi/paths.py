"""The template of a dataset's two paths in openapi.yaml.

NAME and MODEL are replaced by its own, RANKED by `RANKED` if it has a rank, VERSIONED by `VERSIONED` if it names the
version of the model.
"""

from __future__ import annotations

_INTEGRATION = (
    '{type: aws_proxy, httpMethod: POST, uri: {"Fn::Sub": "arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda'
    ':path/2015-03-31/functions/${ServeFunction.Alias}/invocations"}}'
)
RANKED = """\
        - {$ref: "#/components/parameters/MODELTop"}
        - {$ref: "#/components/parameters/MODELAfterRank"}
"""
VERSIONED = """\
            Larder-Model-Version: {$ref: "#/components/headers/LarderModelVersion"}
"""
PATHS = """\
  /v1/NAME:
    get:
      operationId: listMODEL
      tags: [NAME]
      summary: The subject's items, a page at a time, in order of prediction_id
      parameters:
        - {$ref: "#/components/parameters/Ids"}
        - {$ref: "#/components/parameters/Limit"}
        - {$ref: "#/components/parameters/After"}
        - {$ref: "#/components/parameters/Prefix"}
RANKED        - {$ref: "#/components/parameters/MODELFields"}
        - {$ref: "#/components/parameters/MaxAge"}
        - {$ref: "#/components/parameters/IfNoneMatch"}
      responses:
        "200":
          description: >-
            A page. It can be shorter than `limit`, even empty, and have a next page. With `id` it has the items in the
            order of the ids, and each id that is not among them is in `missing`, `too_old` or `remaining`.
          headers:
            ETag: {$ref: "#/components/headers/ETag"}
            Cache-Control: {$ref: "#/components/headers/CacheControl"}
            Vary: {$ref: "#/components/headers/Vary"}
            Link: {$ref: "#/components/headers/Link"}
          content:
            application/json:
              schema: {$ref: "#/components/schemas/MODELPage"}
        "304": {$ref: "#/components/responses/NotModified"}
        "400": {$ref: "#/components/responses/InvalidRequest"}
        "401": {$ref: "#/components/responses/Unauthorized"}
        "403": {$ref: "#/components/responses/Forbidden"}
        "406": {$ref: "#/components/responses/NotAcceptable"}
        "429": {$ref: "#/components/responses/TooManyRequests"}
        "500": {$ref: "#/components/responses/InternalError"}
        "503": {$ref: "#/components/responses/Unavailable"}
      x-amazon-apigateway-integration: INTEGRATION
    head:
      operationId: headMODEL
      tags: [NAME]
      summary: The headers of the GET response
      parameters:
        - {$ref: "#/components/parameters/Ids"}
        - {$ref: "#/components/parameters/Limit"}
        - {$ref: "#/components/parameters/After"}
        - {$ref: "#/components/parameters/Prefix"}
RANKED        - {$ref: "#/components/parameters/MODELFields"}
        - {$ref: "#/components/parameters/MaxAge"}
        - {$ref: "#/components/parameters/IfNoneMatch"}
      responses:
        "200": {description: "As for GET, without a body."}
        "304": {description: Not modified.}
        "400": {description: "As for GET, without a body."}
        "401": {description: "As for GET, without a body."}
        "403": {description: "As for GET, without a body."}
        "406": {description: "As for GET, without a body."}
        "429": {description: "As for GET, without a body."}
        "500": {description: "As for GET, without a body."}
        "503": {description: "As for GET, without a body."}
      x-amazon-apigateway-integration: INTEGRATION
    options:
      operationId: optionsMODEL
      tags: [NAME]
      summary: Allowed methods
      security: []
      responses:
        "204":
          description: The methods are in the Allow header.
          headers:
            Allow: {$ref: "#/components/headers/Allow"}
      x-amazon-apigateway-integration: INTEGRATION
    x-amazon-apigateway-any-method:
      responses: {"405": {$ref: "#/components/responses/MethodNotAllowed"}}
      x-amazon-apigateway-integration: INTEGRATION

  /v1/NAME/{prediction_id}:
    parameters:
      - {$ref: "#/components/parameters/PredictionId"}
    get:
      operationId: getMODELItem
      tags: [NAME]
      summary: One item
      parameters:
        - {$ref: "#/components/parameters/MODELFields"}
        - {$ref: "#/components/parameters/MaxAge"}
        - {$ref: "#/components/parameters/IfNoneMatch"}
        - {$ref: "#/components/parameters/IfModifiedSince"}
      responses:
        "200":
          description: The item's body, byte for byte as it is stored.
          headers:
            ETag: {$ref: "#/components/headers/ETag"}
            Cache-Control: {$ref: "#/components/headers/CacheControl"}
            Vary: {$ref: "#/components/headers/Vary"}
            Last-Modified: {$ref: "#/components/headers/LastModified"}
            Larder-As-Of: {$ref: "#/components/headers/LarderAsOf"}
            Larder-Expires-At: {$ref: "#/components/headers/LarderExpiresAt"}
            Larder-Run: {$ref: "#/components/headers/LarderRun"}
VERSIONED          content:
            application/json:
              schema: {$ref: "#/components/schemas/MODELBody"}
        "304": {$ref: "#/components/responses/ItemNotModified"}
        "400": {$ref: "#/components/responses/InvalidRequest"}
        "401": {$ref: "#/components/responses/Unauthorized"}
        "403": {$ref: "#/components/responses/Forbidden"}
        "404": {$ref: "#/components/responses/ItemNotFound"}
        "406": {$ref: "#/components/responses/NotAcceptable"}
        "429": {$ref: "#/components/responses/TooManyRequests"}
        "500": {$ref: "#/components/responses/InternalError"}
        "503": {$ref: "#/components/responses/Unavailable"}
      x-amazon-apigateway-integration: INTEGRATION
    head:
      operationId: headMODELItem
      tags: [NAME]
      summary: The headers of the GET response
      parameters:
        - {$ref: "#/components/parameters/MODELFields"}
        - {$ref: "#/components/parameters/MaxAge"}
        - {$ref: "#/components/parameters/IfNoneMatch"}
        - {$ref: "#/components/parameters/IfModifiedSince"}
      responses:
        "200": {description: The item exists.}
        "304": {description: Not modified.}
        "400": {description: "As for GET, without a body."}
        "401": {description: "As for GET, without a body."}
        "403": {description: "As for GET, without a body."}
        "404": {description: "As for GET, without a body."}
        "406": {description: "As for GET, without a body."}
        "429": {description: "As for GET, without a body."}
        "500": {description: "As for GET, without a body."}
        "503": {description: "As for GET, without a body."}
      x-amazon-apigateway-integration: INTEGRATION
    options:
      operationId: optionsMODELItem
      tags: [NAME]
      summary: Allowed methods
      security: []
      responses:
        "204":
          description: The methods are in the Allow header.
          headers:
            Allow: {$ref: "#/components/headers/Allow"}
        "404": {$ref: "#/components/responses/NotFound"}
      x-amazon-apigateway-integration: INTEGRATION
    x-amazon-apigateway-any-method:
      parameters:
        - {$ref: "#/components/parameters/PredictionId"}
      responses: {"405": {$ref: "#/components/responses/MethodNotAllowed"}}
      x-amazon-apigateway-integration: INTEGRATION

""".replace("INTEGRATION", _INTEGRATION)
