"""The app's pages and components; no torch, no policy, no engine: everything comes through the service."""
