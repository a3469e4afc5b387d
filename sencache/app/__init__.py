"""The floor under the app and its API: a request in, plain events and files out."""
