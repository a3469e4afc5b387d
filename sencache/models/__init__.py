"""The models that can be run: what is known of each, and how one is loaded and called."""
