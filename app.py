"""The Space's door: builds the app and launches it."""

import spaces  # noqa: F401  (before anything touches CUDA)

from sencache.ui.page import build_app, launch_options

app = build_app()

if __name__ == "__main__":
    app.launch(**launch_options())
