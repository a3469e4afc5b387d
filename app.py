"""The Space's door: builds the app and launches it."""

import spaces  # noqa: F401  (before anything touches CUDA)

from sencache.app.pages.page import launch, start

app = start()

if __name__ == "__main__":
    launch(app)
