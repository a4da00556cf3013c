"""The shapes of requests and answers, from which OpenAPI is written."""
